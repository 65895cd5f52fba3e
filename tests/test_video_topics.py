"""Topics of H.264 and H.265 in bags: played, and read at random for training."""

import pickle
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("torch")

from numpy.typing import NDArray
from videos import COMPRESSED_VIDEO, PACKET, encode, number_of, write_video_bag

from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.images.stamps import SECOND
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames
from dino_train.data.frames import open_frames
from dino_train.data.selection import SelectedFrames, SelectionParameters
from dino_train.data.survey import survey
from dino_train.machine.workers import WorkerContext

COUNT = 35
H264 = encode(COUNT)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def topic_frames(path: Path) -> BagFrames:
    ((frames,), _) = open_bag_frames(path)
    return frames


def assert_both_halves_show(path: Path, numbers: list[int]) -> list[NDArray[np.uint8]]:
    """In order, and in training at random; returns the images."""
    played = list(open_source(path))
    assert [number_of(frame.rgb()) for frame in played] == numbers
    assert [frame.stamp for frame in played] == [SECOND + number * SECOND // 10 for number in numbers]
    assert [frame.time - frame.stamp for frame in played] == [SECOND] * len(numbers)
    assert {frame.frame_id for frame in played} == {"front"}
    frames = topic_frames(path)
    assert frames.times.tolist() == [frame.time for frame in played]
    for number in [*np.random.default_rng(0).permutation(len(numbers)).tolist(), *range(len(numbers))]:
        np.testing.assert_array_equal(frames[number], played[number].rgb())
    assert all(thumbnail is not None for thumbnail in frames.thumbnails())
    return [frame.rgb() for frame in played]


@pytest.mark.parametrize(
    ("storage", "kind"),
    [(storage, kind) for storage in ("mcap", "sqlite3") for kind in (PACKET, COMPRESSED_VIDEO)] + [("ros1", PACKET)],
)
def test_every_storage_and_type(tmp_path: Path, storage: str, kind: str) -> None:
    path = write_video_bag(tmp_path / ("r.bag" if storage == "ros1" else "bag"), H264, kind, storage)
    assert_both_halves_show(path, list(range(COUNT)))
    assert topic_frames(path).encoding == "h264"


@pytest.mark.parametrize("encoding", ["h264", "libx264", "h264_nvenc", "h264;yuv420p;bgr8;bgr8"])
def test_codecs_as_publishers_name_them(tmp_path: Path, encoding: str) -> None:
    assert_both_halves_show(write_video_bag(tmp_path / "bag", H264[:12], encoding=encoding), list(range(12)))


@pytest.mark.parametrize("encoding", ["h265", "hevc", "libx265"])
def test_h265(tmp_path: Path, encoding: str) -> None:
    packets = encode(15, "libx265", {"x265-params": "log-level=none:bframes=0:keyint=5:min-keyint=5"})
    kind = COMPRESSED_VIDEO if encoding == "h265" else PACKET
    assert_both_halves_show(write_video_bag(tmp_path / "bag", packets, kind, encoding=encoding), list(range(15)))


@pytest.mark.parametrize("start", [3, 10, 19])
def test_a_start_in_the_middle_of_a_group_of_pictures(
    tmp_path: Path, start: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video_bag(tmp_path / "bag", H264[start:])
    first = -(-start // 10) * 10
    frames, played = topic_frames(path), list(open_source(path))
    for shown in ([frame.rgb() for frame in played], [frames[number] for number in range(len(frames))]):
        assert [number_of(image) for image in shown] == list(range(first, COUNT))
    counted = [record.getMessage() for record in caplog.records]
    assert len(counted) == (2 if first > start else 0), "once in each half"
    assert all(f"{first - start} frames" in sentence and "first keyframe" in sentence for sentence in counted)


def test_nothing_but_what_needs_a_keyframe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video_bag(tmp_path / "bag", H264[1:9])
    assert list(open_source(path)) == []
    assert "none of its 8 frames is a keyframe" in caplog.text
    with pytest.raises(UserError, match="none of its frames is a keyframe"):
        open_bag_frames(path)


def test_a_recording_without_definitions(tmp_path: Path) -> None:
    path = write_video_bag(tmp_path / "bag", H264[:12], storage="sqlite3")
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("DELETE FROM message_definitions")
        database.commit()
    assert_both_halves_show(path, list(range(12)))


@pytest.mark.parametrize("broken", [b"", b"\0\0\1\x41" + bytes(90), b"no video at all"])
def test_a_damaged_frame_spoils_no_more_than_its_group_of_pictures(
    tmp_path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video_bag(tmp_path / "bag", [*H264[:14], broken, *H264[15:]])
    played = list(open_source(path))
    shown = {round(frame.stamp / SECOND * 10) - 10: number_of(frame.rgb()) for frame in played}
    whole = [*range(14), *range(20, COUNT)]
    assert [shown[number] for number in whole] == whole
    assert 14 not in shown or shown[14] != 14
    assert "frames do not decode, the first at 3400000000 ns" in caplog.text
    frames = topic_frames(path)
    assert [number_of(frames[number]) for number in reversed(whole)] == whole[::-1]
    with pytest.raises(UserError, match="message at 3400000000 ns: it does not decode"):
        frames[14]
    assert list(frames.thumbnails())[14] is None


def test_b_frames(tmp_path: Path) -> None:
    """Publishers promise not to send them. A message's frame is still that which it holds, in whatever order."""
    packets = encode(COUNT, options={"bf": "2", "b_strategy": "0"})
    path = write_video_bag(tmp_path / "bag", packets)
    played = {frame.stamp: number_of(frame.rgb()) for frame in open_source(path)}
    assert sorted(played.values()) == list(range(COUNT))
    assert list(played.values()) == sorted(played.values()), "shown in the order of the video"
    frames = topic_frames(path)
    for number in np.random.default_rng(0).permutation(COUNT).tolist():
        assert number_of(frames[number]) == played[SECOND + number * SECOND // 10]


def test_workers_and_near_duplicates(tmp_path: Path) -> None:
    frames = open_frames([write_video_bag(tmp_path / "bag", H264)], selection=SelectionParameters(1))
    assert isinstance(frames.sources[0], SelectedFrames)
    numbers = [number_of(frames[number]) for number in range(len(frames))]
    assert numbers == sorted(set(numbers))
    with WorkerContext().Pool(2) as pool:
        shown = pool.starmap(number_shown, [(frames, number) for number in reversed(range(len(frames)))])
    assert shown[::-1] == numbers
    assert number_of(pickle.loads(pickle.dumps(frames))[1]) == numbers[1]


def number_shown(frames: object, number: int) -> int:
    return number_of(frames[number])  # type: ignore[index]


def test_the_table_names_the_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_video_bag(tmp_path / "bag", H264[3:], COMPRESSED_VIDEO, "sqlite3")
    survey([path], [], {}, SelectionParameters(), tmp_path / "sheet.png")
    assert "112x48 h264" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "sheet.png").exists()


def test_a_codec_that_is_not_known(tmp_path: Path) -> None:
    path = write_video_bag(tmp_path / "bag", H264[:3], encoding="avif7")
    for read in (lambda: list(open_source(path)), lambda: open_bag_frames(path)):
        with pytest.raises(UserError, match=r"'avif7' cannot be decoded: record H\.264"):
            read()


def test_without_pyav_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video_bag(tmp_path / "bag", H264[:3])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"/camera of .* is video: playing it needs the package av: run `pip install"):
        open_source(path)
