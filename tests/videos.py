"""Small videos whose frames show their number, and bags with a topic of video."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dino_ros.images.stamps import SECOND, stamp_fields

BITS = 7
"""A frame shows its number as that many blocks, the lowest bit first, from the left."""
BLOCK = 16
"""Width of a block; a frame is 112x48."""
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
DEFINITIONS = {
    PACKET: """std_msgs/Header header
int32 width       # original image width
int32 height      # original image height
string encoding   # encoding used
uint64 pts        # packet pts
uint8  flags      # packet flags
bool is_bigendian # true if machine stores in big endian format
uint8[] data      # ffmpeg compressed payload
""",
    COMPRESSED_VIDEO: """builtin_interfaces/Time timestamp
string frame_id
uint8[] data
string format
""",
}
ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Clockwise degrees by which a player turns a video, and a, b, c, d of its display matrix."""


def picture(number: int) -> NDArray[np.uint8]:
    """The frame of that number, RGB [48, 112, 3]: blocks above a texture that moves."""
    blocks = np.repeat([(number >> bit & 1) * 200 + 20 for bit in range(BITS)], BLOCK)
    image = np.zeros((48, BITS * BLOCK, 3), np.uint8)
    image[:24] = blocks[None, :, None]
    rows, columns = np.mgrid[:24, : BITS * BLOCK]
    for channel in range(3):
        image[24:, :, channel] = 128 + 90 * np.sin((columns + 3 * number) / (5 + channel) + rows / 4)
    return image


def number_of(rgb: NDArray[np.uint8]) -> int:
    """The number that an upright frame shows."""
    means = rgb[4:20].reshape(16, BITS, BLOCK, 3)[:, :, 4:12].mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(BITS) if means[bit] > 120)


class Pipe(io.RawIOBase):
    """What cannot go back: a stream that is written as it comes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


def write_video(
    path: Path,
    milliseconds: Sequence[int],
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    streamed: bool = False,
    numbers: Sequence[int] = (),
) -> Path:
    """Write a frame at each of these times, with `numbers` or counted up.

    A streamed file knows neither its length nor where its keyframes are.
    """
    target: Any = Pipe(path) if streamed else str(path)
    form = {"mkv": "matroska", "ts": "mpegts", "mpg": "mpeg"}.get(path.suffix[1:], path.suffix[1:])
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height = BITS * BLOCK, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if form in ("mp4", "matroska"):
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1  # an encoder's threads would be missed in processes that tests fork
        stream.options = {"g": "10", "preset": "ultrafast", **(options or {})}
        for number, time in zip(numbers or range(len(milliseconds)), milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if streamed:
        target.close()
    return path


def turn(path: Path, degrees: int) -> Path:
    """Make players turn an .mp4: its display matrix says so."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in ROTATIONS[degrees])
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def encode(count: int, codec: str = "libx264", options: Mapping[str, str] | None = None) -> list[bytes]:
    """`count` frames, each encoded in Annex B, in the order in which they are sent; a keyframe every 10."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = BITS * BLOCK, 48, "yuv420p"
    context.time_base = Fraction(1, 20)
    context.thread_count = 1
    context.options = {"g": "10", "bf": "0", "preset": "ultrafast", **(options or {})}
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame.pts = number
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]


def write_video_bag(
    path: Path, packets: Sequence[bytes], kind: str = PACKET, storage: str = "mcap", encoding: str = "h264"
) -> Path:
    """Write a bag whose topic /camera has a packet every 0.1 s, recorded from 2 s on and stamped from 1 s on.

    `storage`: mcap, sqlite3 or ros1 (a path that ends in .bag).
    """
    ros1 = storage == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(DEFINITIONS[kind], kind))
    writer: Any = Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    with writer:
        connection = writer.add_connection("/camera", kind, typestore=store)
        for number, packet in enumerate(packets):
            time = SECOND + number * SECOND // 10
            stamp = store.types["builtin_interfaces/msg/Time"](**stamp_fields(time))
            data = np.frombuffer(packet, np.uint8)
            if kind == PACKET:
                header = store.types["std_msgs/msg/Header"](*((number,) if ros1 else ()), stamp, "front")
                message = store.types[kind](header, BITS * BLOCK, 48, encoding, number, 0, False, data)
            else:
                message = store.types[kind](stamp, "front", data, encoding)
            raw = (store.serialize_ros1 if ros1 else store.serialize_cdr)(message, kind)
            writer.write(connection, time + SECOND, bytes(raw))
    return path
