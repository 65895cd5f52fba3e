"""Places of messages in the files of a bag, and reading from there: MCAP, SQLite3 and ROS 1.

The files are walked here rather than read through rosbags, whose readers give messages in order but not their places.
What a message means is left to rosbags, and whether the bag is whole.
"""

from __future__ import annotations

import bz2
import functools
import io
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAME = np.dtype([("time", "<i8"), ("offset", "<i8"), ("size", "<u4"), ("block", "<u4")])
"""A message: its time of recording in ns, its data's offset and size in bytes within the block (SQLite3: its row)."""
BLOCK = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<i8"), ("unpacked", "<i8"), ("compression", "S4")])
"""A compressed chunk of a file, with its sizes in bytes, or a whole file where `compression` is empty."""

MCAP_START = len("\x89MCAP0\r\n")
ROS1_START = len("#ROSBAG V2.0\n")
PLACES = """
    SELECT topics.name, messages.timestamp, messages.id, length(messages.data)
    FROM messages JOIN topics ON topics.id = messages.topic_id
"""
ROW = "SELECT data FROM messages WHERE id = ?"

Place = tuple[str, int, int, int, int]
"""A topic, then the fields of FRAME."""


class _Chunk(NamedTuple):
    compression: str
    offset: int
    size: int
    unpacked: int


Records = Callable[[BinaryIO, int, int], Iterator[tuple[str, int, int, int] | _Chunk]]
"""Reads the records between two places of a stream: messages (topic, time, offset, size) and chunks of messages."""


def find_places(
    files: Sequence[Path], topics: set[str], ros1_topics: Mapping[int, str], blocks: list[tuple[Any, ...]]
) -> Iterator[Place]:
    """Walk the files of a bag and yield the places of the messages of `topics`, file by file.

    `ros1_topics` names the connections of a ROS 1 bag by their numbers. Appends the fields of BLOCK for each file, then
    for each compressed chunk, to `blocks`, which must be empty. Contents are read only where a chunk is compressed.
    """
    blocks.extend((number, 0, 0, 0, b"") for number in range(len(files)))
    for number, file in enumerate(files):
        if file.suffix == ".db3":
            yield from _sqlite_places(file, number, topics)
            continue
        with file.open("rb") as stream:
            if file.suffix == ".bag":
                records, start = functools.partial(_ros1_records, topics=ros1_topics), ROS1_START
            else:
                records, start = functools.partial(_mcap_records, topics={}), MCAP_START
            for place in _walk(records, stream, start, file.stat().st_size, number, blocks):
                if place[0] in topics:
                    yield place


class MessageReader:
    """Reads messages at their places. Every process that uses it opens the files for itself; one chunk is kept."""

    _chunk: tuple[int, bytes]
    """Number of the block that was unpacked last, and its contents."""

    def __init__(self, files: Sequence[Path], blocks: NDArray[np.void]) -> None:
        self._files = tuple(files)
        self._blocks = blocks
        self._forget()

    def read(self, offset: int, size: int, block: int) -> bytes:
        """Return the bytes at a place. Raises whatever the operating system or a decompressor raises."""
        if self._process != os.getpid():  # neither a database nor a place in a file survives a fork
            self._forget()
        file, start, packed, unpacked, compression = self._blocks[block].item()
        if self._files[file].suffix == ".db3":
            row: tuple[bytes] = self._database(file).execute(ROW, (offset,)).fetchone()
            return row[0]
        if not compression:
            return os.pread(self._stream(file), size, offset)
        if self._chunk[0] != block:
            data = os.pread(self._stream(file), packed, start)
            self._chunk = (block, unpack(compression.decode(), data, unpacked))
        return self._chunk[1][offset : offset + size]

    def __getstate__(self) -> dict[str, object]:
        return {"_files": self._files, "_blocks": self._blocks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
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


def unpack(compression: str, data: bytes, size: int) -> bytes:
    """Decompress a chunk, or a message, to its `size` in bytes (0: not known)."""
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    return bz2.decompress(data) if compression == "bz2" else DECOMPRESSORS[compression](data, size)


def _walk(
    records: Records, stream: BinaryIO, start: int, end: int, block: int, blocks: list[tuple[Any, ...]]
) -> Iterator[Place]:
    """Yield the messages between two places of a stream that holds that block, and those in the chunks there."""
    for record in records(stream, start, end):
        if not isinstance(record, _Chunk):
            yield (*record, block)
        elif record.compression in ("", "none"):
            yield from _walk(records, stream, record.offset, record.offset + record.size, block, blocks)
        else:
            stream.seek(record.offset)
            contents = unpack(record.compression, stream.read(record.size), record.unpacked)
            file = blocks[block][0]
            blocks.append((file, record.offset, record.size, record.unpacked, record.compression.encode()))
            yield from _walk(records, io.BytesIO(contents), 0, len(contents), len(blocks) - 1, blocks)


def _mcap_records(
    stream: BinaryIO, start: int, end: int, topics: dict[int, str]
) -> Iterator[tuple[str, int, int, int] | _Chunk]:
    """Messages and chunks, as https://mcap.dev/spec lays them out; `topics` learns the channels met on the way."""
    while start < end:
        stream.seek(start)
        code, size = struct.unpack("<BQ", stream.read(9))
        start += 9
        if code == 0x04:  # channel: its number, its schema's, its topic
            channel, _, length = struct.unpack("<HHI", stream.read(8))
            topics[channel] = stream.read(length).decode()
        elif code == 0x05:  # message: channel, sequence, time of recording and of publishing, data
            channel, _, time = struct.unpack("<HIQ", stream.read(14))
            yield topics[channel], time, start + 22, size - 22
        elif code == 0x06:  # chunk: first and last time, size unpacked, checksum, compression, records
            _, _, unpacked, _, length = struct.unpack("<QQQII", stream.read(32))
            compression = stream.read(length).decode()
            (packed,) = struct.unpack("<Q", stream.read(8))
            yield _Chunk(compression, start + 40 + length, packed, unpacked)
        elif code == 0x0F:  # end of data: what follows is a summary
            return
        start += size


def _ros1_records(
    stream: BinaryIO, start: int, end: int, topics: Mapping[int, str]
) -> Iterator[tuple[str, int, int, int] | _Chunk]:
    """Messages and chunks, as https://wiki.ros.org/Bags/Format/2.0 lays them out."""
    from rosbags.rosbag1.reader import Header, RecordType, read_uint32

    while start < end:
        stream.seek(start)
        header = Header.read(stream)
        size = read_uint32(stream)
        start = stream.tell()
        code = header.get_uint8("op")
        if code == RecordType.MSGDATA:
            yield topics[header.get_uint32("conn")], header.get_time("time"), start, size
        elif code == RecordType.CHUNK:
            yield _Chunk(header.get_string("compression"), start, size, header.get_uint32("size"))
        start += size


def _sqlite_places(file: Path, number: int, topics: set[str]) -> Iterator[Place]:
    with closing(_open_database(file)) as database:
        for topic, time, row, size in database.execute(PLACES):
            if topic in topics:
                yield topic, time, row, size, number


def _open_database(file: Path) -> sqlite3.Connection:
    # Immutable, as rosbags opens it: else SQLite wants to write beside the file, and to lock it.
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
