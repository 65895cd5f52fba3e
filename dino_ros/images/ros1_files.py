"""Bags of ROS 1: their records, and their index. https://wiki.ros.org/Bags/Format/2.0."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from dino_ros.images.bag_records import (
    Chunk,
    Connection,
    RecordedMessage,
    check_end,
    check_magic,
    ros2_type,
    summed,
)

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, CHUNK, CHUNK_INFO, CONNECTION = b"\x02", b"\x05", b"\x06", b"\x07"
"""Values of a record's `op`."""


def records(
    stream: BinaryIO, start: int, end: int, connections: dict[int, Connection]
) -> Iterator[RecordedMessage | Chunk]:
    """Read a file's or a chunk's records; see Records. Raises EOFError where they end too early."""
    for header, offset, size in _headers(stream, start, end):
        if header[b"op"] == MESSAGE:
            seconds, nanoseconds = struct.unpack("<II", header[b"time"])
            yield RecordedMessage(_number(header[b"conn"]), seconds * 10**9 + nanoseconds, offset, size)
        elif header[b"op"] == CHUNK:
            yield Chunk(header[b"compression"].decode(), offset, size)
        elif header[b"op"] == CONNECTION:
            _add_connection(stream, header, size, connections)


def _headers(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[dict[bytes, bytes], int, int]]:
    """Header of each record, offset and size of its data; the stream stands at the data."""
    while start < end:
        stream.seek(start)
        header = _fields(stream.read(_number(stream.read(4))))
        size = _number(stream.read(4))
        start = stream.tell()
        check_end(start, size, end)
        yield header, start, size
        start += size


def _add_connection(
    stream: BinaryIO, header: Mapping[bytes, bytes], size: int, connections: dict[int, Connection]
) -> None:
    fields = {name: value.decode(errors="replace") for name, value in _fields(stream.read(size)).items()}
    topic = re.sub("/+", "/", header[b"topic"].decode(errors="replace"))
    connections[_number(header[b"conn"])] = Connection(
        topic, ros2_type(fields[b"type"]), "ros1", fields.get(b"message_definition", ""), "ros1msg"
    )


def _fields(header: bytes) -> dict[bytes, bytes]:
    """Fields of a record's header by name."""
    fields, start = {}, 0
    while start < len(header):
        (size,) = struct.unpack_from("<I", header, start)
        name, _, value = header[start + 4 : start + 4 + size].partition(b"=")
        fields[name] = value
        start += 4 + size
    return fields


def summary(file: Path) -> dict[Connection, int] | None:
    """Every connection and how many messages it has; None where the file has no index."""
    with file.open("rb") as stream:
        check_magic(stream.read(len(MAGIC)), MAGIC)
        end = file.stat().st_size
        header, _, _ = next(_headers(stream, len(MAGIC), end))
        (start,) = struct.unpack("<Q", header[b"index_pos"])
        if not start:
            return None
        check_end(start, 0, end)
        connections: dict[int, Connection] = {}
        counts: dict[int, int] = {}
        for header, _, size in _headers(stream, start, end):
            if header[b"op"] == CONNECTION:
                _add_connection(stream, header, size, connections)
            elif header[b"op"] == CHUNK_INFO:
                for number, count in struct.iter_unpack("<II", stream.read(size)):
                    counts[number] = counts.get(number, 0) + count
    return summed((connection, counts.get(number, 0)) for number, connection in connections.items())


def _number(data: bytes) -> int:
    number: int = struct.unpack("<I", data)[0]
    return number
