"""Where the messages of a bag lie in its files, and reading them from there: MCAP, SQLite3 and ROS 1.

Readers of rosbags yield messages in order of time but do not tell their offsets, so the files are walked here. Checking
that a bag is complete, and deserializing its messages, is left to rosbags.
"""

from __future__ import annotations

import bz2
import functools
import io
import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MESSAGE = np.dtype([("time", "<i8"), ("offset", "<i8"), ("size", "<u4"), ("chunk", "<u4")])
"""A message: the time it was recorded at in ns; offset and size of its data within the chunk, in bytes. In an SQLite3
file the offset is the row's id."""
CHUNK = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<i8"), ("compression", "S4")])
"""A compressed part of a file, with its offset and compressed size in bytes; where `compression` is empty, the whole
file instead."""

MCAP_START = len("\x89MCAP0\r\n")
ROS1_START = len("#ROSBAG V2.0\n")
ROS1_MESSAGE, ROS1_CHUNK = b"\x02", b"\x05"
"""Values of a record's `op`."""
SELECT_OFFSETS = """
    SELECT topics.name, messages.timestamp, messages.id, length(messages.data)
    FROM messages JOIN topics ON topics.id = messages.topic_id
"""
SELECT_DATA = "SELECT data FROM messages WHERE id = ?"

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.decompress,
    "lz4": lz4.frame.decompress,
    "zstd": zstd.decompress,
}

TopicMessage = tuple[str, int, int, int, int]
"""A topic, then the fields of MESSAGE."""


class _Chunk(NamedTuple):
    compression: str
    offset: int
    size: int


Records = Callable[[BinaryIO, int, int], Iterator[tuple[str, int, int, int] | _Chunk]]
"""Reads the records of a stream from one offset to another: messages (topic, time, offset, size) and chunks."""


def find_messages(
    files: Sequence[Path], topics: set[str], ros1_topics: Mapping[int, str], chunks: list[tuple[Any, ...]]
) -> Iterator[TopicMessage]:
    """Walk the files of a bag, one after the other, and yield the messages of `topics`.

    `ros1_topics` maps the connection ids of a ROS 1 bag to topics. `chunks` must be empty; one entry with the fields of
    CHUNK is appended for each file, then one for each compressed chunk. Message data is only read where a chunk is
    compressed.
    """
    chunks.extend((number, 0, 0, b"") for number in range(len(files)))
    for number, file in enumerate(files):
        if file.suffix == ".db3":
            yield from _sqlite_messages(file, number, topics)
            continue
        with file.open("rb") as stream:
            if file.suffix == ".bag":
                records, start = functools.partial(_ros1_records, topics=ros1_topics), ROS1_START
            else:
                records, start = functools.partial(_mcap_records, topics={}), MCAP_START
            for message in _walk(records, stream, start, file.stat().st_size, number, chunks):
                if message[0] in topics:
                    yield message


class MessageReader:
    """Reads messages at known offsets.

    Every process that uses it opens the files for itself. The chunk that was decompressed last is kept.
    """

    _chunk: tuple[int, bytes]
    """Number and content of that chunk."""

    def __init__(self, files: Sequence[Path], chunks: NDArray[np.void]) -> None:
        self._files = tuple(files)
        self._chunks = chunks
        self._reset()

    def read(self, offset: int, size: int, chunk: int) -> bytes:
        """Return the data of a message. Raises whatever the operating system or a decompressor raises."""
        if self._process != os.getpid():  # neither a database nor a position in a file survives a fork
            self._reset()
        file, start, compressed_size, compression = self._chunks[chunk].item()
        if self._files[file].suffix == ".db3":
            row: tuple[bytes] = self._database(file).execute(SELECT_DATA, (offset,)).fetchone()
            return row[0]
        if not compression:
            return os.pread(self._stream(file), size, offset)
        if self._chunk[0] != chunk:
            data = os.pread(self._stream(file), compressed_size, start)
            self._chunk = (chunk, DECOMPRESS[compression.decode()](data))
        return self._chunk[1][offset : offset + size]

    def __getstate__(self) -> dict[str, object]:
        return {"_files": self._files, "_chunks": self._chunks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._chunk = (-1, b"")
        self._streams: dict[int, BinaryIO] = {}
        self._databases: dict[int, sqlite3.Connection] = {}

    def _stream(self, file: int) -> int:
        if file not in self._streams:
            self._streams[file] = self._files[file].open("rb", buffering=0)
        return self._streams[file].fileno()

    def _database(self, file: int) -> sqlite3.Connection:
        if file not in self._databases:
            self._databases[file] = _open_database(self._files[file])
        return self._databases[file]


def _walk(
    records: Records, stream: BinaryIO, start: int, end: int, chunk: int, chunks: list[tuple[Any, ...]]
) -> Iterator[TopicMessage]:
    """Yield the messages between two offsets of a stream, which is the content of `chunk`; descends into chunks."""
    for record in records(stream, start, end):
        if not isinstance(record, _Chunk):
            yield (*record, chunk)
        elif record.compression in ("", "none"):
            yield from _walk(records, stream, record.offset, record.offset + record.size, chunk, chunks)
        else:
            stream.seek(record.offset)
            content = DECOMPRESS[record.compression](stream.read(record.size))
            file = chunks[chunk][0]
            chunks.append((file, record.offset, record.size, record.compression.encode()))
            yield from _walk(records, io.BytesIO(content), 0, len(content), len(chunks) - 1, chunks)


def _mcap_records(
    stream: BinaryIO, start: int, end: int, topics: dict[int, str]
) -> Iterator[tuple[str, int, int, int] | _Chunk]:
    """Messages and chunks in the format of https://mcap.dev/spec; channels met on the way are added to `topics`."""
    while start < end:
        stream.seek(start)
        code, size = struct.unpack("<BQ", stream.read(9))
        start += 9
        if code == 0x04:  # channel: id, schema id, topic
            channel, _, length = struct.unpack("<HHI", stream.read(8))
            topics[channel] = stream.read(length).decode()
        elif code == 0x05:  # message: channel, sequence, times of recording and of publishing, data
            channel, _, time = struct.unpack("<HIQ", stream.read(14))
            yield topics[channel], time, start + 22, size - 22
        elif code == 0x06:  # chunk: first and last time, uncompressed size, checksum, compression, records
            _, _, _, _, length = struct.unpack("<QQQII", stream.read(32))
            compression = stream.read(length).decode()
            (compressed_size,) = struct.unpack("<Q", stream.read(8))
            yield _Chunk(compression, start + 40 + length, compressed_size)
        elif code == 0x0F:  # end of data: a summary follows
            return
        start += size


def _ros1_records(
    stream: BinaryIO, start: int, end: int, topics: Mapping[int, str]
) -> Iterator[tuple[str, int, int, int] | _Chunk]:
    """Messages and chunks in the format of https://wiki.ros.org/Bags/Format/2.0."""
    while start < end:
        stream.seek(start)
        header = _ros1_header(stream.read(*struct.unpack("<I", stream.read(4))))
        (size,) = struct.unpack("<I", stream.read(4))
        start = stream.tell()
        if header[b"op"] == ROS1_MESSAGE:
            (connection,) = struct.unpack("<I", header[b"conn"])
            seconds, nanoseconds = struct.unpack("<II", header[b"time"])
            yield topics[connection], seconds * 10**9 + nanoseconds, start, size
        elif header[b"op"] == ROS1_CHUNK:
            yield _Chunk(header[b"compression"].decode(), start, size)
        start += size


def _ros1_header(header: bytes) -> dict[bytes, bytes]:
    """Fields of a record's header by name."""
    fields, start = {}, 0
    while start < len(header):
        (size,) = struct.unpack_from("<I", header, start)
        name, _, value = header[start + 4 : start + 4 + size].partition(b"=")
        fields[name] = value
        start += 4 + size
    return fields


def _sqlite_messages(file: Path, number: int, topics: set[str]) -> Iterator[TopicMessage]:
    with closing(_open_database(file)) as database:
        for topic, time, row, size in database.execute(SELECT_OFFSETS):
            if topic in topics:
                yield topic, time, row, size, number


def _open_database(file: Path) -> sqlite3.Connection:
    # Immutable, as rosbags opens it: otherwise SQLite locks the file and writes next to it.
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
