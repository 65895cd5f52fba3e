"""Bags of both storages, good and broken, videos and folders of images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import camera_info, encoded, raw, write_bag, write_topics

from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.images.stamps import stamp_ns


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_of_either_storage(tmp_path: Path, storage: str) -> None:
    images = write_bag(tmp_path / "bag", storage, frames=7)
    for path in (tmp_path / "bag", next((tmp_path / "bag").glob("bag*.[md][cb]*"))):
        for topic in ("/raw", "/compressed"):
            source = open_source(path, topic)
            frames = list(source)
            assert len(source) == len(frames) == 7
            assert [frame.stamp for frame in frames] == [1_000_000_000 + 100_000_000 * i for i in range(7)]
            assert {frame.frame_id for frame in frames} == {"camera"}
            for frame, image in zip(frames, images, strict=True):
                np.testing.assert_array_equal(frame.rgb(), image)
            assert [frame.stamp for frame in source] == [frame.stamp for frame in frames], "it plays again"


def test_bag_topics_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", "mcap", frames=2)
    with pytest.raises(UserError, match="several image topics: choose one of /compressed, /raw with --topic"):
        open_source(tmp_path / "bag")
    with pytest.raises(
        UserError, match="no topic /camera, its image topics are /compressed, /raw: name one with --topic"
    ):
        open_source(tmp_path / "bag", "/camera")
    with pytest.raises(UserError, match=r"/text .* is of type std_msgs/msg/String, not of images"):
        open_source(tmp_path / "bag", "/text")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_truncated_bag_is_named(tmp_path: Path, storage: str, share: float) -> None:
    write_bag(tmp_path / "bag", storage, frames=30)
    file = next((tmp_path / "bag").glob("bag*.[md][cb]*"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    repair = {"mcap": "mcap recover", "sqlite3": r"sqlite3 .* \.recover"}[storage]
    with pytest.raises(UserError, match=rf"cannot be read as a bag .* cut short or damaged; .*{repair}") as caught:
        list(open_source(tmp_path / "bag", "/raw"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("topic", ["/front/image_raw", "/front/image_raw/compressed"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_frames_carry_the_calibration_that_was_recorded_last(tmp_path: Path, storage: str, topic: str) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    image = encoded("png", pixels) if topic.endswith("compressed") else raw("rgb8", pixels)
    infos = [camera_info(height, 6, storage == "ros1") for height in (4, 8)]
    other = camera_info(2, 6, storage == "ros1")
    path = tmp_path / ("bag.bag" if storage == "ros1" else "bag")
    write_topics(path, {topic: [image] * 3, "/front/camera_info": infos, "/camera_info": [other] * 3}, storage)
    source = open_source(path, topic, camera_info=True)
    for frames in (list(source), list(source)):
        assert [stamp_ns(frame.camera_info) - frames[0].stamp for frame in frames] == [0, 100_000_000, 100_000_000]
        assert [frame.camera_info.height for frame in frames] == [4, 8, 8]
    assert all(frame.camera_info is None for frame in open_source(path, topic))


def test_video(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for level in range(0, 250, 25):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    frames = list(open_source(tmp_path / "v.mp4"))
    assert [frame.stamp for frame in frames] == [50_000_000 * i for i in range(10)]
    levels = [frame.rgb().mean() for frame in frames]
    np.testing.assert_allclose(levels, range(0, 250, 25), atol=6)


def test_video_of_unknown_length(tmp_path: Path) -> None:
    """As a recorder leaves it that was killed: Matroska without a duration."""
    path = tmp_path / "v.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for _ in range(10):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    start, duration, rest = path.read_bytes().partition(b"\x44\x89\x88")
    assert duration
    path.write_bytes(start + b"\xec\x89" + bytes(9) + rest[8:])
    source = open_source(path)
    assert len(source) == 0
    assert sum(1 for _ in source) == 10


def test_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name, level in (("a10.png", 20), ("a9.png", 10), ("c/d.png", 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((4, 5, 3), level, np.uint8))
    (tmp_path / "._a9.png").write_text("what macOS leaves behind")
    assert [int(frame.rgb()[0, 0, 0]) for frame in open_source(tmp_path)] == [10, 20, 30]


def test_a_bad_image_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "b.png").write_text("no image")
    good, bad, last = open_source(tmp_path)
    assert good.rgb().shape == last.rgb().shape == (4, 5, 3)
    with pytest.raises(UserError, match="does not decode"):
        bad.rgb()


def test_a_path_that_cannot_be_played_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for name, sentence in (
        ("missing", "does not exist"),
        ("bad.mp4", "does not decode as a video: convert it"),
        ("empty", "holds no images"),
        ("notes.txt", "not a bag, a video or a folder"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            open_source(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_real_robot_log(test_data: Path) -> None:
    frames = list(open_source(test_data / "bags" / "euroc_micro"))
    assert len(frames) == 95
    assert np.all(np.diff([frame.stamp for frame in frames]) > 0)
    assert all(frame.rgb().shape == (480, 752, 3) for frame in frames[::20])


def test_real_video(test_data: Path) -> None:
    source = open_source(test_data / "videos" / "cups.mp4")
    assert sum(1 for _ in source) == len(source) == 300
