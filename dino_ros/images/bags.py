"""Bags, of ROS 2 and of ROS 1: which topics they hold, and the messages of one topic.

Only the definitions of topics that are asked for are parsed; those of images are known.
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from dino_ros.errors import UserError
from dino_ros.images.bag_files import MessageReader, count_messages, find_messages
from dino_ros.images.bag_records import Connection, Message
from dino_ros.images.cdr import image_types, read_cdr
from dino_ros.images.folders import is_stray, natural
from dino_ros.images.sqlite_files import complete_database
from dino_ros.images.video_messages import DEFINITIONS, VIDEO_TYPES

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

log = logging.getLogger(__name__)

BAG_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
"""Those of one image a message; see also VIDEO_TYPES."""
IMAGE_WORDS = {"color", "colour", "rgb"}
LABEL_WORDS = {"depth", "disparity", "instance", "label", "mask", "seg", "segmentation", "semantic"}
"""Words in the names of topics, singular, that tell images from labels and depth; the last one in a name decides."""
METADATA = "metadata.yaml"
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, ten times as fast, where PyYAML was built with it."""
REPAIRS = {
    ".mcap": "recover what is left of it with `mcap recover`",
    ".db3": "recover what is left of it with `sqlite3 OLD.db3 .recover | sqlite3 NEW.db3`",
    ".bag": "repair it with `rosbag reindex`",
    ".yaml": "write it anew with `ros2 bag reindex`",
}
"""What to do about a file that is cut short or damaged."""
TOPIC_OPTION = "--topic, or the camera node's parameter topic"
"""What names a topic of a bag."""


@dataclass(frozen=True)
class Bag:
    """The topics of a bag."""

    path: Path
    files: tuple[Path, ...]
    """In their order."""
    topics: Mapping[str, Connection]
    """By name."""
    counts: Mapping[str, int]
    """How many messages each topic has."""
    unpacked: tempfile.TemporaryDirectory[str] | None = None
    """Holds the files, for as long as the bag is used, where the recorder compressed them."""

    @property
    def types(self) -> dict[str, str]:
        """Message type of each topic."""
        return {name: connection.type for name, connection in self.topics.items()}

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Yield each message of a topic, serialized, and when it was recorded, in ns; in recorded order.

        Raises UserError where the bag is cut short or broken.
        """
        chunks: list[tuple[Any, ...]] = []
        reader = MessageReader()
        found = find_messages(self.files, chunks)
        while True:
            try:
                message = next(found)
                if not self.is_of(message, topic):
                    continue
                raw = reader.read(self.files, chunks, message.offset, message.size, message.chunk)
            except StopIteration:
                return
            except Exception as error:  # every storage and decompressor raises its own
                raise broken_bag(self.path, error) from error
            yield message.time, raw

    def is_of(self, message: Message, topic: str) -> bool:
        """Whether a message is of a topic, and of the type that the topic is taken to have."""
        found, known = message.connection, self.topics[topic]
        return found.topic == topic and (found.type, found.serialization) == (known.type, known.serialization)


def is_bag(path: Path) -> bool:
    """Whether the path is a bag: a file with a bag's suffix, or a folder of them, or with a bag's metadata.yaml.

    Raises UserError for a folder that must not be read.
    """
    if path.is_dir():
        return bool(_storage_files(path)) or _metadata(path) is not None
    return path.suffix.lower() in BAG_SUFFIXES


def bag_files(path: Path) -> tuple[tuple[Path, ...], bool]:
    """The files of a bag in their order, and whether they are compressed as a whole.

    What metadata.yaml lists decides, without one the names do. Raises UserError if there are none, or one is missing.
    """
    if path.is_file():
        return (path,), False
    information = _metadata(path)
    try:
        listed = [path / PurePath(file).name for file in information["relative_file_paths"]] if information else []
    except (KeyError, TypeError) as error:
        raise broken_bag(path / METADATA, error) from error
    files = listed or _storage_files(path)
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{path} lacks its file {missing[0]}, which metadata.yaml lists: copy it there.")
    if not files:
        raise UserError(f"{path} has no files of messages: copy the .mcap or .db3 files there.")
    return tuple(files), files[0].suffix == ".zstd"


def open_bag(path: Path) -> Bag:
    """Open a bag for reading.

    Raises UserError if rosbags is not installed, or the bag is cut short, broken or must not be read.
    """
    try:
        import rosbags  # noqa: F401
    except ImportError as error:
        raise UserError("Reading bags needs the package rosbags: run `pip install rosbags`.") from error
    files, packed = bag_files(path)
    unpacked: tempfile.TemporaryDirectory[str] | None = None
    try:
        if packed:
            unpacked = tempfile.TemporaryDirectory()
            files = tuple(_unpack(file, Path(unpacked.name)) for file in files)
        files = tuple(complete_database(file) if file.suffix == ".db3" else file for file in files)
        counts = count_messages(files)
    except Exception as error:  # every storage and decompressor raises its own
        raise broken_bag(path, error) from error
    topics: dict[str, Connection] = {}
    for connection in counts:
        topics.setdefault(connection.topic, connection)
    sums = dict.fromkeys(topics, 0)
    for connection, count in counts.items():
        known = topics[connection.topic]
        if (connection.type, connection.serialization) == (known.type, known.serialization):
            sums[connection.topic] += count
    return Bag(path, files, topics, sums, unpacked)


def broken_bag(path: Path, error: Exception) -> UserError:
    """The UserError for an error while reading a bag: its first line, and what to do."""
    detail = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{path} cannot be read as a bag ({error.strerror}): check its files and their permissions.")
    storage = next(iter(_storage_files(path)), path) if path.is_dir() else path
    repair = REPAIRS.get(storage.suffix, "record or copy it again")
    return UserError(f"{path} cannot be read as a bag ({detail}): it is cut short or damaged; {repair}.")


def image_topics(types: Mapping[str, str]) -> list[str]:
    """Names of the topics that hold images or video, given every topic's message type; sorted."""
    return sorted(topic for topic, kind in types.items() if kind in IMAGE_TYPES or kind in VIDEO_TYPES)


def choose_image_topics(path: Path, types: Mapping[str, str], topics: Sequence[str] = ()) -> list[str]:
    """The named topics, or all image topics if none is named.

    `types` maps every topic of the bag to its message type. Where a named topic was not recorded, that of one of its
    transports is taken, such as /camera/image_raw/compressed, and a warning says so. Raises UserError, listing the
    image topics, if a named one is missing or does not carry images, or if the bag has none.
    """
    images = image_topics(types)
    if not images:
        raise UserError(
            f"{path} has no image topic, its topics are {', '.join(sorted(types)) or 'none'}: record that of "
            "the camera, or give another bag."
        )
    listing = f"its image topics are {', '.join(images)}: name one with {TOPIC_OPTION}"
    chosen = []
    for topic in topics:
        transports = sorted(
            (name for name in images if name != topic and base_topic(name, types[name]) == topic),
            key=lambda name: (not name.endswith("/compressed"), name),
        )
        if topic not in types and not transports:
            raise UserError(f"{path} has no topic {topic}, {listing}.")
        if topic in types and topic not in images:
            raise UserError(f"The topic {topic} of {path} is of type {types[topic]}, not of images; {listing}.")
        if topic not in types:
            log.warning("%s has no topic %s: taking %s.", path.name, topic, transports[0])
        chosen.append(topic if topic in types else transports[0])
    return list(dict.fromkeys(chosen)) or images


def base_topic(topic: str, kind: str) -> str:
    """The topic of raw images that a transport's topic stands for, given its message type; else the topic itself."""
    return topic if kind == IMAGE_TYPES[0] else topic.rpartition("/")[0] or topic


def label_word(topic: str) -> str:
    """The word of a topic's name that tells that it holds labels or depth rather than images; "" if none does."""
    words = [word.removesuffix("s") for word in re.findall("[a-z]+", topic.lower())]
    telling = [word for word in words if word in LABEL_WORDS | IMAGE_WORDS]
    return telling[-1] if telling and telling[-1] in LABEL_WORDS else ""


def deserializer(connection: Connection) -> Callable[[bytes], Any]:
    """What turns a message of a topic into an object of rosbags; that raises UserError for bytes that are no such one.

    Raises UserError, naming the topic, if it is not serialized as ROS does it or its definition is not understood.
    """
    if connection.serialization not in ("cdr", "ros1"):
        raise UserError(
            f"The topic {connection.topic} is serialized as {connection.serialization!r}, not as cdr or ros1: "
            "record it as a message of ROS."
        )
    if connection.type not in IMAGE_TYPES:
        store = _recorded_types(connection)
    else:
        store = image_types() if connection.serialization == "cdr" else _standard_types(connection.serialization)
    return functools.partial(_deserialize, store, connection.type, connection.serialization)


def _deserialize(store: Typestore, kind: str, serialization: str, raw: bytes) -> Any:
    try:
        return store.deserialize_ros1(raw, kind) if serialization == "ros1" else read_cdr(store, kind, raw)
    except Exception as error:  # on damaged bytes it raises whatever it runs into
        raise UserError(f"A message of {len(raw)} bytes is not a {kind} ({error}): it is damaged.") from error


@functools.cache
def _standard_types(serialization: str) -> Typestore:
    """The types that ROS itself defines, images are the same in every distribution, and those of video."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if serialization == "ros1" else Stores.ROS2_JAZZY)
    for kind, definition in DEFINITIONS.items():
        store.register(get_types_from_msg(definition, kind))
    return store


def _recorded_types(connection: Connection) -> Typestore:
    """The topic's type as it was recorded; as ROS defines it where the recording does not say, or not intelligibly."""
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    standard = _standard_types(connection.serialization)
    definition = connection.definition.replace("\r\n", "\n").replace("\xa0", " ").lstrip("\ufeff")
    try:
        if not definition.strip():
            raise ValueError("there is none")
        if connection.definition_format in ("ros2idl", "omgidl"):
            separator = "=" * 80 + "\nIDL: "
            parts = [part.partition("\n")[2] for part in definition.split(separator)[1:]] or [definition]
            types = {name: fields for part in parts for name, fields in get_types_from_idl(part).items()}
        else:
            types = get_types_from_msg(definition, connection.type)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        store.get_msgdef(connection.type)
        return store
    except Exception as error:  # whatever the parser runs into
        if connection.type in standard.fielddefs:
            return standard
        raise UserError(
            f"The definition of {connection.type} that was recorded with the topic {connection.topic} is not "
            f"understood: choose another with {TOPIC_OPTION}."
        ) from error


def _storage_files(folder: Path) -> list[Path]:
    suffixes = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
    try:
        named = [file for file in folder.iterdir() if file.name.endswith(suffixes) and not is_stray(file.name)]
        files = [file for file in named if file.is_file()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from error
    return sorted(files, key=natural)


def _metadata(folder: Path) -> dict[str, Any] | None:
    """What a bag's metadata.yaml says; None where there is none, or it is not that of a bag."""
    try:
        content = yaml.load((folder / METADATA).read_text(errors="replace"), YAML_LOADER)
        information = content["rosbag2_bagfile_information"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return information if isinstance(information, dict) else None


def _unpack(file: Path, folder: Path) -> Path:
    from rosbags.rosbag2 import reader  # which knows where this version of Python has zstd

    unpacked = folder / file.stem
    with reader.zstd.open(file, "rb") as packed, unpacked.open("wb") as target:  # type: ignore[attr-defined]
        shutil.copyfileobj(packed, target)
    return unpacked
