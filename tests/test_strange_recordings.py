"""Recordings from elsewhere: what cannot be understood of a bag or folder does not spoil the rest, in either half."""

import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("torch")

import yaml
from bags import McapTopic, raw, serialized, write_mcap, write_topics
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bags import deserializer, open_bag
from dino_ros.images.sources import open_source
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.frames import open_frames
from dino_train.data.loader import CropDataset
from dino_train.data.selection import SelectionParameters
from dino_train.data.survey import survey
from dino_train.recipes import Recipe

IMAGES = [np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8) for number in range(5)]
MESSAGES = [serialized(raw("rgb8", image)) for image in IMAGES]
CAMERA = McapTopic("/camera", MESSAGES)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def assert_both_halves_read(path: Path, topic: str = "/camera", images: list[NDArray[np.uint8]] = IMAGES) -> None:
    played = [frame.rgb() for frame in open_source(path, topic)]
    ((frames,), _) = open_bag_frames(path, [topic])
    np.testing.assert_array_equal(played, images)
    np.testing.assert_array_equal([frames[number] for number in range(len(frames))], images)


def assert_both_halves_refuse(path: Path, sentence: str, topic: str = "/camera") -> None:
    for read in (lambda: list(open_source(path, topic)), lambda: open_bag_frames(path, [topic])):
        with pytest.raises(UserError, match=sentence) as caught:
            read()
        assert "\n" not in str(caught.value)


OTHERS = {
    "jsonschema": McapTopic("/log", [b"{}"], "Log", "jsonschema", b'{"type": "object"}', "json"),
    "protobuf": McapTopic("/log", [b"\x0a\x00"], "foxglove.Log", "protobuf", b"\x0a\xff\xfe", "protobuf"),
    "unknown encoding": McapTopic("/log", [], "a/msg/A", "unknown", b"?"),
    "no encoding": McapTopic("/log", [], "a/msg/A", "", b""),
    "Latin-1": McapTopic("/log", [], "a/msg/A", "ros2msg", b"int32 angle  # \xb0 of the joint"),
    "CRLF": McapTopic("/log", [], "a/msg/A", "ros2msg", b"int32 a\r\nint32 b\r\n"),
    "byte order mark": McapTopic("/log", [], "a/msg/A", "ros2msg", b"\xef\xbb\xbfint32 a\n"),
    "no-break space": McapTopic("/log", [], "a/msg/A", "ros2msg", "int32\xa0a".encode()),
    "bounded wstring": McapTopic("/log", [], "a/msg/A", "ros2msg", b"wstring<=10 a"),
    "not a definition": McapTopic("/log", [], "a/msg/A", "ros2idl", b"module {"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_topic_that_is_not_asked_for_is_not_parsed(tmp_path: Path, other: str) -> None:
    path = write_mcap(tmp_path / "r.mcap", [OTHERS[other], CAMERA])
    assert_both_halves_read(path)
    assert set(open_bag_frames(path)[1]) == {"/log"}, "named as left out"


@pytest.mark.parametrize("profile", ["ros2", "ros1", "", "anything"])
@pytest.mark.parametrize("schema_encoding", ["ros2msg", "ros1msg", "unknown", ""])
def test_images_are_known_without_a_definition(tmp_path: Path, profile: str, schema_encoding: str) -> None:
    topic = CAMERA._replace(schema_encoding=schema_encoding)
    assert_both_halves_read(write_mcap(tmp_path / "r.mcap", [topic], profile))


def test_messages_of_ros_1_in_mcap(tmp_path: Path) -> None:
    messages = [serialized(raw("rgb8", image), ros1=True) for image in IMAGES]
    topic = McapTopic("/camera", messages, "sensor_msgs/Image", "ros1msg", b"", "ros1")
    assert_both_halves_read(write_mcap(tmp_path / "r.mcap", [topic], "ros1"))


def test_images_that_ros_did_not_serialize_are_refused_by_name(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "r.mcap", [CAMERA._replace(message_encoding="json")])
    assert_both_halves_refuse(path, "topic /camera .*is serialized as 'json', not as cdr or ros1")


@pytest.mark.parametrize(
    ("definition", "fields"),
    [
        (b"\xef\xbb\xbfint32 a  # \xb0\r\nint32 b\r\n", (7, 8)),
        ("int32\xa0a\nint32 b".encode(), (7, 8)),
    ],
)
def test_definitions_that_editors_touched_are_parsed_when_asked_for(
    tmp_path: Path, definition: bytes, fields: tuple[int, int]
) -> None:
    message = b"\0\1\0\0" + struct.pack("<ii", *fields)
    path = write_mcap(tmp_path / "r.mcap", [McapTopic("/log", [message], "a/msg/A", "ros2msg", definition)])
    bag = open_bag(path)
    ((_, data),) = bag.messages("/log")
    parsed = deserializer(bag.topics["/log"])(data)
    assert (parsed.a, parsed.b) == fields


def test_a_definition_that_is_not_understood_is_named_when_asked_for(tmp_path: Path) -> None:
    bag = open_bag(write_mcap(tmp_path / "r.mcap", [OTHERS["bounded wstring"]]))
    with pytest.raises(UserError, match=r"definition of a/msg/A that was recorded with the topic /log"):
        deserializer(bag.topics["/log"])


@pytest.mark.parametrize(
    ("old", "new"), [(b"060021388200f6f0f447d0fcd9c64743", b"0" * 32), (b"uint32 height", b"\xb0" * 13)]
)
def test_a_ros_1_bag_with_another_hash_or_definition(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write_topics(tmp_path / "r.bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, "ros1")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    assert_both_halves_read(path)


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_ros_1_bag_without_its_index(tmp_path: Path, compression: str) -> None:
    path = write_topics(tmp_path / "r.bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, "ros1", compression)
    data = path.read_bytes()
    (index,) = struct.unpack_from("<Q", data, data.index(b"index_pos=") + 10)
    path.write_bytes(data[:index].replace(b"index_pos=" + struct.pack("<Q", index), b"index_pos=" + bytes(8)))
    assert_both_halves_read(path)


def edit_metadata(bag: Path, **changes: object) -> None:
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    content["rosbag2_bagfile_information"] |= changes
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("qos", ["", "[]", "- history: 7\n  depth: 3", "rubbish: ["])
def test_topics_are_matched_whatever_their_qos(tmp_path: Path, storage: str, qos: str) -> None:
    bag = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, storage)
    topics = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = topics["topics_with_message_count"]
    topics[0]["topic_metadata"]["offered_qos_profiles"] = qos
    edit_metadata(bag, topics_with_message_count=topics)
    assert_both_halves_read(bag)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", ["as reindexed", "none", "rubbish"])
def test_metadata_that_says_little(tmp_path: Path, storage: str, metadata: str) -> None:
    bag = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, storage)
    if metadata == "as reindexed":
        edit_metadata(bag, storage_identifier="", topics_with_message_count=[])
    elif metadata == "none":
        (bag / "metadata.yaml").unlink()
    else:
        (bag / "metadata.yaml").write_text("{[")
    assert_both_halves_read(bag)


def test_a_file_that_metadata_lists_is_missed(tmp_path: Path) -> None:
    bag = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", IMAGES[0])]})
    edit_metadata(bag, relative_file_paths=["bag.mcap", "bag_1.mcap"])
    assert_both_halves_refuse(bag, "lacks its file bag_1.mcap")


def test_a_folder_of_images_with_a_metadata_file_of_its_own(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), IMAGES[0])
    (tmp_path / "metadata.yaml").write_text("license: CC0\n")
    assert len(open_source(tmp_path)) == 1


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%25b", "a%b", "[red]a"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_names_that_mean_something_elsewhere(tmp_path: Path, storage: str, name: str) -> None:
    bag = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, storage)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    file.rename(bag / f"{name}{file.suffix}")
    assert_both_halves_read(bag.rename(tmp_path / name))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_recordings_compressed_file_by_file_are_played(tmp_path: Path, storage: str) -> None:
    topics = {"/camera": [raw("rgb8", image) for image in IMAGES]}
    source = open_source(write_topics(tmp_path / "bag", topics, storage, "file"), "/camera")
    for _ in range(2):
        np.testing.assert_array_equal([frame.rgb() for frame in source], IMAGES)


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode = " + sys.argv[2])
database.execute("PRAGMA cache_size = 1")  # so that changes are written before they are committed
database.execute("UPDATE messages SET timestamp = timestamp + 0")
if sys.argv[2] == "WAL":
    copies = "SELECT topic_id, timestamp + 5, data FROM messages"
    database.execute("INSERT INTO messages (topic_id, timestamp, data) " + copies)
    database.commit()
else:
    database.execute("DELETE FROM messages WHERE id > 1")
    database.execute("UPDATE messages SET data = zeroblob(200000)")
os._exit(9)
"""


@pytest.mark.parametrize(("mode", "copies"), [("WAL", 2), ("DELETE", 1)])
def test_a_database_whose_recorder_was_killed(tmp_path: Path, mode: str, copies: int) -> None:
    """What is in the file beside it alone is read, unfinished changes are undone, and the folder stays as it is."""
    bag = write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", image) for image in IMAGES]}, "sqlite3")
    subprocess.run([sys.executable, "-c", KILLED, str(bag / "bag.db3"), mode], check=False)
    assert len(list(bag.iterdir())) >= 3, "something beside it"
    (bag / "bag.db3-shm").unlink(missing_ok=True)  # as it is copied from a robot
    before = {file.name: file.read_bytes() for file in bag.iterdir()}
    assert_both_halves_read(bag, images=[image for image in IMAGES for _ in range(copies)])
    assert {file.name: file.read_bytes() for file in bag.iterdir()} == before


@pytest.mark.parametrize("padding", [1, 3, 4, 7, 8])
def test_messages_padded_with_zeros(tmp_path: Path, padding: int) -> None:
    topic = CAMERA._replace(messages=[message + bytes(padding) for message in MESSAGES])
    assert_both_halves_read(write_mcap(tmp_path / "r.mcap", [topic]))


@pytest.mark.parametrize("broken", [0, 2, 4])
def test_a_message_cut_is_left_out_alone(tmp_path: Path, broken: int, caplog: pytest.LogCaptureFixture) -> None:
    messages = [message[:40] if number == broken else message for number, message in enumerate(MESSAGES)]
    path = write_mcap(tmp_path / "r.mcap", [CAMERA._replace(messages=messages)])
    expected = [image for number, image in enumerate(IMAGES) if number != broken]
    np.testing.assert_array_equal([frame.rgb() for frame in open_source(path)], expected)
    assert f"message at 1{broken}00000000 ns" in caplog.text
    ((frames,), _) = open_bag_frames(path)
    assert frames.encoding == "rgb8"
    with pytest.raises(UserError, match="it is damaged"):
        frames[broken]


def test_dark_and_bright_images_of_a_sensor_of_12_bits(tmp_path: Path) -> None:
    """Both halves scale all of a topic alike: the sequence shows how bright each image is."""
    grays = [np.full((4, 5), level, np.uint16) for level in (3000, 200, 3100, 90)]
    messages = [serialized(raw("mono16", gray)) for gray in grays]
    path = write_mcap(tmp_path / "r.mcap", [CAMERA._replace(messages=messages)])
    expected = [np.full((4, 5, 3), level >> 4, np.uint8) for level in (3000, 200, 3100, 90)]
    assert_both_halves_read(path, images=expected)
    ((frames,), _) = open_bag_frames(path)
    assert [int(thumbnail[0, 0]) for thumbnail in frames.thumbnails()] == [187, 12, 193, 5]


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((4, 5, 3), level, np.uint8))[1].tobytes())


def test_both_halves_agree_on_which_files_are_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number, name in enumerate(("a.png", "b/c.PNG", "[red].png", "q#?%25.png")):
        picture(folder / name, number)
    picture(tmp_path / "elsewhere" / "d.png", 9)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    for stray in ("._a.png", ".hidden/a.png", "__MACOSX/a.png", "b/__MACOSX/._c.png"):
        picture(folder / stray, 77)
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb") as file:
        file.write((folder / "a.png").read_bytes())
    played = [int(frame.rgb()[0, 0, 0]) for frame in open_source(folder)]
    frames = open_frames([folder])
    assert sorted(played) == [0, 0, 1, 2, 3, 9]
    assert sorted(int(frames[number][0, 0, 0]) for number in range(len(frames))) == sorted(played)


def test_strays_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("./a.png", "b/c.png", "._a.png", "./__MACOSX/._a.png", "b/.d/e.png"):
            picture(tmp_path / "x.png", 5)
            archive.add(tmp_path / "x.png", name)
    assert len(open_frames([tmp_path / "s.tar"])) == 2


def test_bad_files_are_named_once_and_a_run_stops_when_half_are_bad(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        picture(tmp_path / f"{number:02}.png", number)
    for number in range(12):  # in a row
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    dataset = CropDataset(open_frames([tmp_path]), Recipe())
    (tmp_path / "12.png").unlink()
    for _ in range(3):
        assert int(dataset._views(0, 0.0)[0][0][0, 0, 0]) == 13
    assert len(caplog.records) == 13
    assert "12.png cannot be read (No such file" in caplog.text
    for number in range(13, 17):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"More than 50% of the 30 images of .* cannot be read"):
        dataset._views(0, 0.0)


def test_a_header_of_more_pixels_than_can_be_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 3)
    png = (tmp_path / "a.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    (tmp_path / "b.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    frames = open_frames([tmp_path])
    with pytest.raises(UserError, match=r"b\.png is of 60000x60000 pixels"):
        frames[1]
    with pytest.raises(UserError, match=r"/b\.png: .*60000x60000 pixels is refused"):
        list(open_source(tmp_path))[1].rgb()


@pytest.mark.parametrize("name", ["x.jpg", "x.tar", "x.mp4", "x.mcap", "x.db3", "x.bag"])
def test_a_pipe_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (open_source, lambda path: open_frames([path])):
        with pytest.raises(UserError, match=rf"{name} is a pipe or a device"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.mcap", "x.db3"])
def test_a_pipe_in_a_bag_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (open_source, lambda path: open_frames([path])):
        with pytest.raises(UserError, match="holds no images"):
            read(tmp_path)


def test_a_video_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    path.write_bytes(b"")
    for read in (open_source, lambda path: open_frames([path])):
        with pytest.raises(UserError, match="not UTF-8: rename the video") as caught:
            read(path)
        str(caught.value).encode()


@pytest.mark.parametrize("form", ["jpeg;", ";", " ; jpeg ", "", "[red]"])
def test_a_table_of_strange_names(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    jpeg = cv2.imencode(".jpg", IMAGES[0])[1].ravel()
    fields = ("sensor_msgs/msg/CompressedImage", (form, jpeg))
    cut = serialized(fields)[:30]
    topic = McapTopic("/camera", [cut, serialized(fields)], "sensor_msgs/msg/CompressedImage")
    path = write_mcap(tmp_path / "[red]r.mcap", [topic])
    survey([path], [], {}, SelectionParameters(), tmp_path / "sheet.png")
    assert "[red]r.mcap" in capsys.readouterr().out
