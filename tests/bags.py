"""Small bags of known images."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lz4.frame
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dino_ros.images.stamps import SECOND, stamp_fields

Fields = tuple[str, tuple[Any, ...]]
"""A message's type, and its fields after the header."""


def write_bag(path: Path, storage: str = "mcap", frames: int = 5, broken: int | None = None) -> list[NDArray[np.uint8]]:
    """Write a rosbag2 and return its images, RGB [48, 64, 3].

    Topics: /raw (bgr8, padded rows), /compressed (PNG), both at 10 Hz from stamp 1 s, and /text (String). The
    compressed image number `broken` does not decode.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(frames)]
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:

        def connect(topic: str, kind: str) -> object:
            return writer.add_connection(topic, kind, typestore=store)

        raw = connect("/raw", "sensor_msgs/msg/Image")
        compressed = connect("/compressed", "sensor_msgs/msg/CompressedImage")
        text = connect("/text", "std_msgs/msg/String")
        for number, image in enumerate(images):
            time = SECOND + number * SECOND // 10
            stamp = types["builtin_interfaces/msg/Time"](**stamp_fields(time))
            header = types["std_msgs/msg/Header"](stamp, "camera")
            padded = np.hstack([image[:, :, ::-1].reshape(48, -1), np.zeros((48, 8), np.uint8)])
            png = cv2.imencode(".png", image[:, :, ::-1])[1].ravel()
            png = png if number != broken else png[:50].copy()
            for connection, message in (
                (raw, types["sensor_msgs/msg/Image"](header, 48, 64, "bgr8", 0, 200, padded.reshape(-1))),
                (compressed, types["sensor_msgs/msg/CompressedImage"](header, "png", png)),
                (text, types["std_msgs/msg/String"]("hello")),
            ):
                writer.write(connection, time, store.serialize_cdr(message, message.__msgtype__))
    return images


def raw(encoding: str, pixels: NDArray[Any]) -> Fields:
    """An Image message of pixels [H, W, ...] without padding."""
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return "sensor_msgs/msg/Image", (height, width, encoding, 0, data.size // height, data)


def camera_info(height: int, width: int, ros1: bool = False) -> Fields:
    """A CameraInfo message in which no two matrices are alike."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    matrices = [np.arange(size) + 0.5 * size for size in (5, 9, 9, 12)]
    part = store.types["sensor_msgs/msg/RegionOfInterest"](1, 2, 3, 5, True)
    return "sensor_msgs/msg/CameraInfo", (height, width, "plumb_bob", *matrices, 1, 2, part)


def encoded(ending: str, rgb: NDArray[np.uint8]) -> Fields:
    """A CompressedImage message of an image [H, W, 3], encoded as a file with that ending."""
    data = cv2.imencode(f".{ending}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].ravel()
    return "sensor_msgs/msg/CompressedImage", (ending, data)


def write_topics(
    path: Path, topics: Mapping[str, Sequence[Fields]], storage: str = "mcap", compression: str = "none"
) -> Path:
    """Write a bag with one message per topic every 0.1 s, from 1 s on; returns its path.

    `storage`: mcap, sqlite3 or ros1 (a path that ends in .bag); `compression`: what rosbags calls it for that storage.
    """
    ros1 = storage == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    writer: Any = Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if compression != "none" and ros1:
        writer.set_compression(Writer1.CompressionFormat[compression.upper()])
    elif compression != "none":
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    with writer:
        connections = {
            topic: writer.add_connection(topic, messages[0][0], typestore=store) for topic, messages in topics.items()
        }
        for number in range(max(len(messages) for messages in topics.values())):
            time = SECOND + number * SECOND // 10
            stamp = store.types["builtin_interfaces/msg/Time"](**stamp_fields(time))
            header = store.types["std_msgs/msg/Header"](*((number,) if ros1 else ()), stamp, "camera")
            for topic, messages in topics.items():
                if number < len(messages):
                    kind, fields = messages[number]
                    data = serialize(store.types[kind](header, *fields), kind)
                    writer.write(connections[topic], time, bytes(data))
    return path


def serialized(fields: Fields, stamp: int = SECOND, ros1: bool = False) -> bytes:
    """A message, serialized."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    time = store.types["builtin_interfaces/msg/Time"](**stamp_fields(stamp))
    header = store.types["std_msgs/msg/Header"](*((0,) if ros1 else ()), time, "camera")
    message = store.types[fields[0]](header, *fields[1])
    return bytes((store.serialize_ros1 if ros1 else store.serialize_cdr)(message, fields[0]))


class McapTopic(NamedTuple):
    """A topic of `write_mcap`."""

    name: str
    messages: Sequence[bytes]
    type: str = "sensor_msgs/msg/Image"
    schema_encoding: str = "ros2msg"
    definition: bytes = b""
    message_encoding: str = "cdr"


def write_mcap(path: Path, topics: Sequence[McapTopic], profile: str = "ros2", times: Sequence[int] = ()) -> Path:
    """Write an MCAP file with anything in it; one message per topic every 0.1 s from 1 s on, or at `times`."""

    def record(code: int, content: bytes) -> bytes:
        return struct.pack("<BQ", code, len(content)) + content

    def text(content: str | bytes) -> bytes:
        content = content.encode() if isinstance(content, str) else content
        return struct.pack("<I", len(content)) + content

    connections = b""
    messages = b""
    counts = b""
    for number, topic in enumerate(topics, 1):
        schema = struct.pack("<H", number) + text(topic.type) + text(topic.schema_encoding) + text(topic.definition)
        channel = struct.pack("<HH", number, number) + text(topic.name) + text(topic.message_encoding) + text(b"")
        connections += record(0x03, schema) + record(0x04, channel)
        for count, data in enumerate(topic.messages):
            time = times[count] if times else SECOND + count * SECOND // 10
            messages += record(0x05, struct.pack("<HIQQ", number, count, time, time) + data)
        counts += struct.pack("<HQ", number, len(topic.messages))
    magic = b"\x89MCAP0\r\n"
    data = magic + record(0x01, text(profile) + text("tests")) + connections + messages + record(0x0F, bytes(4))
    statistics = record(0x0B, bytes(42) + text(counts))
    footer = record(0x02, struct.pack("<QQI", len(data), 0, 0))
    path.write_bytes(data + connections + statistics + footer + magic)
    return path


def rewrite_mcap(source: Path, target: Path, lz4_chunks: bool) -> Path:
    """Copy an MCAP file without its summary, with lz4 chunks or without chunks."""
    data, start = source.read_bytes(), 8
    copy = bytearray(data[:start])
    while data[start] != 0x0F:  # the end of the data
        code, size = struct.unpack_from("<BQ", data, start)
        body = data[start + 9 : start + 9 + size]
        if code == 0x01:
            copy += data[start : start + 9 + size]
        elif code == 0x06 and not lz4_chunks:
            copy += body[40:]
        elif code == 0x06:
            packed = lz4.frame.compress(body[40:])
            body = body[:28] + struct.pack("<I3sQ", 3, b"lz4", len(packed)) + packed
            copy += struct.pack("<BQ", code, len(body)) + body
        start += 9 + size
    copy += struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + data[:8]
    target.write_bytes(copy)
    return target
