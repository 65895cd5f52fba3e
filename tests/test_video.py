"""Video files: a frame's number means the same frame in whatever order frames are asked for, in both halves."""

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("torch")

import av
from numpy.typing import NDArray
from videos import number_of, picture, turn, write_video

from dino_ros.errors import UserError
from dino_ros.images.near_duplicates import thumbnail_of_gray
from dino_ros.images.sources import open_source
from dino_train.data.frames import open_frames
from dino_train.data.selection import SelectedFrames, SelectionParameters
from dino_train.data.video import VideoFrames
from dino_train.machine.workers import WorkerContext

EVEN = range(0, 3000, 50)
UNEVEN = np.cumsum([0, *np.random.default_rng(0).choice([20, 50, 130, 400], 59)]).tolist()
"""Milliseconds."""
B_FRAMES = {"bf": "3", "b_strategy": "0"}

FILES: dict[str, Callable[[Path], Path]] = {
    "constant rate": lambda folder: write_video(folder / "v.mp4", EVEN),
    "variable rate": lambda folder: write_video(folder / "v.mp4", UNEVEN),
    "variable rate, Matroska": lambda folder: write_video(folder / "v.mkv", UNEVEN),
    "B-frames": lambda folder: write_video(folder / "v.mp4", EVEN, options=B_FRAMES),
    "B-frames, variable rate": lambda folder: write_video(folder / "v.mp4", UNEVEN, options=B_FRAMES),
    "open groups of pictures": lambda folder: write_video(
        folder / "v.mp4", EVEN, options={**B_FRAMES, "x264-params": "open-gop=1"}
    ),
    "gradual refresh": lambda folder: write_video(folder / "v.mp4", EVEN, options={"x264-params": "intra-refresh=1"}),
    "MPEG-TS": lambda folder: write_video(folder / "v.ts", EVEN),
    "MPEG-TS, B-frames": lambda folder: write_video(folder / "v.ts", EVEN, options=B_FRAMES),
    "MPEG-TS under another name": lambda folder: write_video(folder / "v.ts", EVEN).rename(folder / "v.mpg"),
    "without a length": lambda folder: write_video(folder / "v.mkv", EVEN, streamed=True),
    "without a length, B-frames, variable rate": lambda folder: write_video(
        folder / "v.mkv", UNEVEN, options=B_FRAMES, streamed=True
    ),
    "rotated": lambda folder: turn(write_video(folder / "v.mp4", EVEN), 90),
    "H.265": lambda folder: write_video(
        folder / "v.mp4", EVEN, "libx265", {"x265-params": "log-level=none:bframes=3:keyint=10:min-keyint=10"}
    ),
    "MPEG-4 in AVI": lambda folder: write_video(folder / "v.avi", EVEN, "mpeg4"),
    "MPEG-4 in AVI, B-frames": lambda folder: write_video(folder / "v.avi", EVEN, "mpeg4", {"bf": "2"}),
    "MPEG-2": lambda folder: write_video(folder / "v.mpg", EVEN, "mpeg2video", {"bf": "2", "b": "2M"}),
    "Motion JPEG": lambda folder: write_video(folder / "v.avi", EVEN, "mjpeg"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def in_order(path: Path, count: int = 1000) -> list[NDArray[np.uint8]]:
    """The first frames one after the other, straight from PyAV, as they are stored."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = itertools.islice(container.decode(video=0), count)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize("kind", FILES)
def test_a_number_is_the_same_frame_in_any_order_and_in_both_halves(tmp_path: Path, kind: str) -> None:
    path = FILES[kind](tmp_path)
    turned = 3 if kind == "rotated" else 0
    expected = [np.rot90(frame, turned) for frame in in_order(path)]
    assert len(expected) == 60
    frames = VideoFrames(path)
    assert len(frames) == 60
    forward, shuffled = list(range(60)), np.random.default_rng(1).permutation(60).tolist()
    for order in (forward, shuffled, forward[::-1], forward[5::7], [59, 0, 30, 30]):
        for number in order:
            np.testing.assert_array_equal(frames[number], expected[number], err_msg=f"{number} of {order}")
    assert [number_of(np.rot90(frame, -turned)) for frame in expected] == forward, "shown by the frames themselves"
    thumbnails = list(frames.thumbnails())
    for number in forward:
        gray = cv2.cvtColor(np.ascontiguousarray(expected[number]), cv2.COLOR_RGB2GRAY)
        np.testing.assert_allclose(thumbnails[number], thumbnail_of_gray(gray), atol=12)
    played = list(open_source(path))  # with OpenCV, one frame after the other
    assert len(played) == 60
    for number, frame in enumerate(played):
        assert frame.rgb().shape == frames[number].shape
        assert cv2.absdiff(frame.rgb(), frames[number]).mean() < 3, number
    np.testing.assert_allclose([frame.time for frame in played], frames.times, atol=1e6)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_both_halves_turn_a_video_as_players_do(tmp_path: Path, degrees: int) -> None:
    path = turn(write_video(tmp_path / "v.mp4", range(0, 100, 50)), degrees)
    ((played, _), frames) = [frame.rgb() for frame in open_source(path)], VideoFrames(path)
    for upright in (played, frames[0]):
        back = np.rot90(upright, degrees // 90)  # counterclockwise
        np.testing.assert_allclose(back[4:20, 8::16].mean(), picture(0)[4:20, 8::16].mean(), atol=5)
        assert number_of(np.rot90(frames[1], degrees // 90)) == 1


def test_a_near_duplicate_is_judged_on_the_frame_that_is_trained_on(tmp_path: Path) -> None:
    """A still camera but for some frames: with a rate that varies, OpenCV gave others for their numbers."""
    still = dict.fromkeys(range(40), 5) | {13: 90, 14: 90, 27: 33}
    path = write_video(tmp_path / "v.mp4", UNEVEN[:40], numbers=[still[number] for number in range(40)])
    selected = SelectedFrames(VideoFrames(path), SelectionParameters(40))
    assert selected.numbers.tolist() == [0, 13, 15, 27, 28]
    assert [number_of(selected[number]) for number in (3, 0, 4, 1, 2)] == [33, 5, 5, 90, 5]


def test_workers_decode_for_themselves(tmp_path: Path) -> None:
    frames = open_frames([write_video(tmp_path / "v.mp4", UNEVEN, options=B_FRAMES)])
    order = np.random.default_rng(2).permutation(60).tolist()
    assert number_of(frames[37]) == 37, "a decoder is open here before the workers are forked"
    with WorkerContext().Pool(2) as pool:
        assert pool.starmap(number_shown, [(frames, number) for number in order], chunksize=7) == order
    assert number_of(frames[38]) == 38
    assert number_of(pickle.loads(pickle.dumps(frames))[5]) == 5


def number_shown(frames: object, number: int) -> int:
    return number_of(frames[number])  # type: ignore[index]


@pytest.mark.parametrize("name", ["v.mp4", "v.ts"])
def test_a_damaged_stretch_is_left_out_by_number(tmp_path: Path, name: str) -> None:
    """Whatever of its group of pictures does not decode is named; the groups before and after it are whole."""
    path = write_video(tmp_path / name, EVEN)
    with av.open(str(path)) as container:
        keyframe = next(packet for packet in container.demux(video=0) if packet.is_keyframe and packet.pts)
        start, size = keyframe.pos, keyframe.size
    data = bytearray(path.read_bytes())
    data[start + 188 : start + size] = bytes(size - 188)
    path.write_bytes(data)
    frames = VideoFrames(path)
    shown, broken = [], []
    for number in np.random.default_rng(3).permutation(len(frames)).tolist():
        try:
            shown.append(number_of(frames[number]))
        except UserError:
            broken.append(number)
    assert sorted(shown) == [*range(10), *range(20, 60)]
    assert sorted(broken) == list(range(10, 20))
    with pytest.raises(UserError, match=rf"Frame {broken[0]} of .*{name} does not decode"):
        frames[broken[0]]
    decoded = [thumbnail is not None for thumbnail in frames.thumbnails()]
    assert len(decoded) == len(frames)
    assert set(np.flatnonzero(np.logical_not(decoded)).tolist()) == set(broken)


def test_frames_before_the_first_keyframe_are_left_out_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport stream that was cut anywhere, as by a receiver that was switched on."""
    path = write_video(tmp_path / "v.ts", EVEN)
    data = path.read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    path.write_bytes(b"".join(packets[:2] + packets[len(packets) // 12 :]))
    with av.open(str(path)) as container:
        early = next(count for count, packet in enumerate(container.demux(video=0)) if packet.is_keyframe)
    frames = VideoFrames(path)
    assert len(frames) == 50
    assert 0 < early < 10
    assert [number_of(frames[number]) for number in (0, 49, 7)] == [10, 59, 17]
    assert [record.getMessage() for record in caplog.records if "keyframe" in record.getMessage()] == [
        f"left out: {early} frames of {path} before its first keyframe"
    ]


def test_a_file_of_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    for read, sentence in ((open_source, "does not decode as a video"), (VideoFrames, "holds no video")):
        with pytest.raises(UserError, match=rf"v\.mkv {sentence}"):
            read(path)


def test_real_video(test_data: Path) -> None:
    path = test_data / "videos" / "cups.mp4"
    frames = VideoFrames(path)
    expected = in_order(path, 25)
    assert len(frames) == 300
    for number in (24, 7, 16):
        np.testing.assert_array_equal(frames[number], expected[number])
