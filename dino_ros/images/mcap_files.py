"""Files of MCAP: their records, and their summary. https://mcap.dev/spec."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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

MAGIC = b"\x89MCAP0\r\n"
FOOTER = 37
"""Bytes of the last record and the magic after it."""


def records(
    stream: BinaryIO, start: int, end: int, connections: dict[int, Connection]
) -> Iterator[RecordedMessage | Chunk]:
    """Read a file's or a chunk's records; see Records. Raises EOFError where they end too early."""
    for code, offset, size in _headers(stream, start, end):
        if code == 0x05:  # message: channel, sequence, times of recording and of publishing, data
            channel, _, time = struct.unpack("<HIQ", stream.read(14))
            yield RecordedMessage(channel, time, offset + 22, size - 22)
        elif code == 0x06:  # chunk: first and last time, uncompressed size, checksum, compression, records
            stream.seek(28, os.SEEK_CUR)
            compression = _string(stream)
            (compressed_size,) = struct.unpack("<Q", stream.read(8))
            yield Chunk(compression, stream.tell(), compressed_size)
        elif code == 0x0F:  # end of data: a summary follows
            return
        else:
            _add_connection(stream, code, connections)
    if start == len(MAGIC):
        raise EOFError("it ends without its last record")


def _headers(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, offset and size of each record; the stream stands at the record's content."""
    while start < end:
        stream.seek(start)
        code, size = struct.unpack("<BQ", stream.read(9))
        check_end(start + 9, size, end)
        yield code, start + 9, size
        start += 9 + size


def _add_connection(stream: BinaryIO, code: int, connections: dict[int, Connection]) -> None:
    """Add a schema, under its number below zero, or a channel; other records are passed over."""
    if code == 0x03:  # schema: id, name, encoding, data
        (number,) = struct.unpack("<H", stream.read(2))
        name, encoding, definition = (_string(stream) for _ in range(3))
        connections[-number] = Connection("", ros2_type(name), "", definition, encoding)
    elif code == 0x04:  # channel: id, schema id (0: none), topic, encoding of messages, metadata
        number, schema = struct.unpack("<HH", stream.read(4))
        topic, serialization = _string(stream), _string(stream)
        known = connections.get(-schema, Connection("", "", "")) if schema else Connection("", "", "")
        connections[number] = known._replace(topic=topic, serialization=serialization)


def _string(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<I", stream.read(4))
    return stream.read(length).decode(errors="replace")


def summary(file: Path) -> dict[Connection, int] | None:
    """Every connection and how many messages it has; None where the file has no such summary."""
    with file.open("rb") as stream:
        check_magic(stream.read(len(MAGIC)), MAGIC)
        end = file.stat().st_size - FOOTER
        stream.seek(max(end, 0))
        footer = stream.read(FOOTER)
        if len(footer) < FOOTER or footer[-len(MAGIC) :] != MAGIC:
            raise EOFError("it ends without its last record")
        (start,) = struct.unpack_from("<Q", footer, 9)
        connections: dict[int, Connection] = {}
        counts: dict[int, int] | None = None
        for code, _, _ in _headers(stream, start, end) if start else ():
            if code == 0x0B:  # statistics: counts of this and that, first and last time, messages of each channel
                stream.seek(42, os.SEEK_CUR)
                (size,) = struct.unpack("<I", stream.read(4))
                counts = dict(struct.iter_unpack("<HQ", stream.read(size)))
            else:
                _add_connection(stream, code, connections)
    channels = {number: connection for number, connection in connections.items() if connection.topic}
    if counts is None or not counts.keys() <= channels.keys():
        return None
    return summed((connection, counts.get(number, 0)) for number, connection in channels.items())
