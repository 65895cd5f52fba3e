"""Random access to frames of bags, against rosbags' own reader; the index and its cache."""

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rich")

import yaml
from bags import Fields, encoded, raw, rewrite_mcap, write_bag, write_topics
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_train.data import index
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dino_ros" / "recordings"


def image(width: int = 160, height: int = 120) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_topics(count: int = 40) -> dict[str, list[Fields]]:
    """Large enough for several chunks of a megabyte."""
    return {
        "/raw": [raw("rgb8", image()) for _ in range(count)],
        "/jpeg": [encoded("jpg", image()) for _ in range(count - 3)],
    }


def assert_as_rosbags_reads(path: Path) -> None:
    """Every topic's frames, read in shuffled order, equal those that rosbags gives in order of time."""
    ros1 = path.suffix == ".bag"
    reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY))
    sources = {source.topic: source for source in open_bag_frames(path)[0]}
    with reader:
        for topic, source in sources.items():
            messages = list(reader.messages([c for c in reader.connections if c.topic == topic]))
            assert len(source) == len(messages)
            np.testing.assert_array_equal(source.times, [time for _, time, _ in messages])
            for number in RNG.permutation(len(messages)).tolist():
                connection, _, data = messages[number]
                expected = to_rgb(reader.deserialize(data, connection.msgtype))  # type: ignore[arg-type]
                np.testing.assert_array_equal(source[number], expected)
    assert set(sources) == {"/raw", "/jpeg"}


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        ("mcap", "none"),
        ("mcap", "storage"),
        ("mcap", "message"),
        ("sqlite3", "none"),
        ("sqlite3", "message"),
        ("ros1", "none"),
        ("ros1", "lz4"),
        ("ros1", "bz2"),
    ],
)
def test_every_storage_at_random(tmp_path: Path, storage: str, compression: str) -> None:
    path = tmp_path / ("recording.bag" if storage == "ros1" else "recording")
    assert_as_rosbags_reads(write_topics(path, two_topics(), storage, compression))


@pytest.mark.parametrize("lz4_chunks", [True, False])
def test_mcap_without_summary(tmp_path: Path, lz4_chunks: bool) -> None:
    bag = write_topics(tmp_path / "bag", two_topics())
    assert_as_rosbags_reads(rewrite_mcap(bag / "bag.mcap", tmp_path / "rewritten.mcap", lz4_chunks))


def test_a_bag_in_several_files(tmp_path: Path) -> None:
    first = write_topics(tmp_path / "first", two_topics(10))
    second = write_topics(tmp_path / "second", two_topics(10))
    shutil.copy(second / "second.mcap", first)
    metadata = yaml.safe_load((first / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"]["relative_file_paths"].append("second.mcap")
    (first / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    source = open_bag_frames(first, ["/raw"])[0][0]
    both = [open_bag_frames(path, ["/raw"])[0][0] for path in (first / "first.mcap", second)]
    expected = [frames[number] for number in range(10) for frames in both]  # they were recorded at the same times
    np.testing.assert_array_equal([source[number] for number in range(20)], expected)


@pytest.mark.parametrize("storage", ["mcap", "ros1"])
@pytest.mark.parametrize(
    "fields",
    [
        *(raw(f"bayer_{pattern}8", image()[:, :, 0]) for pattern in ("rggb", "bggr", "gbrg", "grbg")),
        raw("bayer_rggb16", image()[:, :, :2]),
        raw("yuv422", image()[:, :, :2]),
        raw("yuv422_yuy2", image()[:, :, :2]),
        raw("mono8", image()[:, :, 0]),
        raw("mono16", image()[:, :, :2]),
        raw("bgr8", image()),
        encoded("jpg", image()),
        encoded("png", image()),
    ],
    ids=lambda value: value[1][2] if len(value[1]) > 2 else value[1][0],
)
def test_every_encoding_through_a_bag(tmp_path: Path, storage: str, fields: Fields) -> None:
    names = ("height", "width", "encoding", "is_bigendian", "step", "data")
    names = names if len(fields[1]) == len(names) else ("format", "data")
    expected = to_rgb(SimpleNamespace(**dict(zip(names, fields[1], strict=True))))
    path = write_topics(tmp_path / ("r.bag" if storage == "ros1" else "r"), {"/camera": [fields]}, storage)
    np.testing.assert_array_equal(open_bag_frames(path)[0][0][0], expected)


def test_topics_that_are_no_images_are_left_out_by_name(tmp_path: Path) -> None:
    depth = raw("16UC1", image()[:, :, :2])
    compressed_depth = ("sensor_msgs/msg/CompressedImage", ("16UC1; compressedDepth png", np.zeros(9, np.uint8)))
    topics = {"/color": [raw("rgb8", image())], "/depth": [depth], "/packed_depth": [compressed_depth]}
    path = write_topics(tmp_path / "bag", topics)
    sources, left_out = open_bag_frames(path)
    assert [source.topic for source in sources] == ["/color"]
    assert "'16UC1' is not an image" in left_out["/depth"]
    assert "holds depth" in left_out["/packed_depth"]
    with pytest.raises(UserError, match=r"/packed_depth of .* holds no images .*holds depth"):
        open_bag_frames(path, ["/packed_depth"])
    write_bag(tmp_path / "other")
    assert open_bag_frames(tmp_path / "other")[1] == {"/text": "it is of type std_msgs/msg/String, not of images"}


def test_16uc1_is_gray_where_its_topic_is_named(tmp_path: Path) -> None:
    """As mono16, of a sensor with 12 bits."""
    values = np.random.default_rng(0).integers(0, 2**12, (2, 24, 32), dtype=np.uint16)
    values[:, 0, 0] = 2**12 - 1
    path = write_topics(tmp_path / "bag", {"/infrared": [raw("16UC1", frame) for frame in values]})
    with pytest.raises(UserError, match="name the topic"):
        open_bag_frames(path)
    (frames,), left_out = open_bag_frames(path, ["/infrared"])
    assert left_out == {}
    for number, frame in enumerate(values):
        np.testing.assert_array_equal(frames[number], np.repeat((frame // 16)[:, :, None], 3, axis=2))
        assert frames.encoding == "mono16"


@pytest.mark.parametrize("broken", [0, 3])
def test_a_broken_message_is_named_and_the_others_are_read(tmp_path: Path, broken: int) -> None:
    images = write_bag(tmp_path / "bag", frames=6, broken=broken)
    source = open_bag_frames(tmp_path / "bag", ["/compressed"])[0][0]
    with pytest.raises(UserError, match=rf"topic /compressed, message at 1{broken}00000000 ns: .* does not decode"):
        source[broken]
    for number in {0, 1, 3, 5} - {broken}:
        np.testing.assert_array_equal(source[number], images[number])


def test_a_file_cut_short_after_it_was_indexed(tmp_path: Path) -> None:
    write_topics(tmp_path / "bag", two_topics(10))
    source = open_bag_frames(tmp_path / "bag", ["/raw"])[0][0]
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    source[0]
    with pytest.raises(UserError, match=r"topic /raw, message at 1900000000 ns: "):
        source[9]
    with pytest.raises(UserError, match="cannot be read as a bag"):
        open_bag_frames(tmp_path / "bag")


def test_whole_files_compressed_are_refused_without_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", image())]}, compression="file")
    monkeypatch.setattr(index, "open_bag", None)
    with pytest.raises(UserError, match=r"bag is compressed file by file"):
        open_bag_frames(path)


def test_the_index_is_kept_until_the_bag_changes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bag"
    write_bag(path, frames=4)
    opened: list[Path] = []
    open_bag = index.open_bag
    monkeypatch.setattr(index, "open_bag", lambda path: opened.append(path) or open_bag(path))

    def lengths() -> list[int]:
        return [len(source) for source in open_bag_frames(path)[0]]

    assert lengths() == lengths() == [4, 4]
    assert len(opened) == 1, "the second time the bag is not walked"
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:300])
    assert lengths() == [4, 4]
    assert len(opened) == 2, "a corrupt index is built again"
    shutil.rmtree(path)
    write_bag(path, frames=7)
    assert lengths() == [7, 7]
    assert len(list(cache.iterdir())) == 1


def test_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_bag(tmp_path / "bag", frames=4)
    assert len(open_bag_frames(tmp_path / "bag")[0]) == 2


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_a_reader_holds_at_most_32_bytes_per_frame(tmp_path: Path, storage: str) -> None:
    small = raw("mono8", np.zeros((2, 2), np.uint8))

    def held(count: int) -> tuple[int, BagFrames]:
        path = write_topics(
            tmp_path / (f"{count}.bag" if storage == "ros1" else f"{count}"), {"/camera": [small] * count}, storage
        )
        source = open_bag_frames(path)[0][0]
        return len(pickle.dumps(source)), source

    (few, _), (many, source) = held(100), held(1100)
    source[1099]
    assert len(pickle.dumps(source)) == many, "nothing that was read is carried along"
    assert (many - few) / 1000 <= 32


def test_real_recording(test_data: Path) -> None:
    path = test_data / "bags" / "euroc_micro"
    (source,), _ = open_bag_frames(path)
    store = get_typestore(Stores.ROS2_JAZZY)
    with AnyReader([path], default_typestore=store) as reader:
        messages = list(reader.messages([c for c in reader.connections if c.topic == source.topic]))
    for number in (94, 0, 50):
        data = store.deserialize_cdr(messages[number][2], source._connection.type).data  # type: ignore[attr-defined]
        gray = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(source[number], np.dstack([gray] * 3))
