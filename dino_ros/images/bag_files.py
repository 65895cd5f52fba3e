"""The files of a bag: its topics, where its messages lie, and reading them from there.

rosbags parses the definition of every topic before it gives a single message, so one topic that it does not understand
spoils all others; and it does not tell where messages lie. So the files are walked here, and rosbags is left what it
does per message: decompressing and deserializing.
"""

from __future__ import annotations

import bz2
import io
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dino_ros.images import mcap_files, ros1_files, sqlite_files
from dino_ros.images.bag_records import Connection, Message, RecordedMessage, Records, check_magic

MESSAGE = np.dtype([("time", "<i8"), ("offset", "<i8"), ("size", "<u4"), ("chunk", "<u4")])
"""A message: the time it was recorded at in ns; offset and size of its data within the chunk, in bytes. In an SQLite3
file the offset is the row's id."""
CHUNK = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<i8"), ("compression", "S4")])
"""A compressed part of a file, with its offset and compressed size in bytes; where `compression` is empty, the whole
file instead."""
ZSTD = b"\x28\xb5\x2f\xfd"
"""How a compressed message begins; serialized ones of ROS 2 begin with a zero."""


def count_messages(files: Sequence[Path]) -> dict[Connection, int]:
    """Every connection of a bag and how many messages it has, from the files' summaries where they have one.

    Raises whatever the operating system, a database or a decompressor raises, and EOFError for a file cut short.
    """
    counts: dict[Connection, int] = {}
    for file in files:
        summary = _SUMMARIES[file.suffix](file)
        if summary is None:  # recorders that are killed leave none behind
            summary = {}
            for item in _walk_file(file, 0, [(0, 0, 0, b"")]):
                connection = item.connection if isinstance(item, Message) else item
                summary[connection] = summary.get(connection, 0) + isinstance(item, Message)
        for connection, count in summary.items():
            counts[connection] = counts.get(connection, 0) + count
    return counts


def find_messages(files: Sequence[Path], chunks: list[tuple[Any, ...]]) -> Iterator[Message]:
    """Walk the files of a bag, one after the other, and yield their messages.

    `chunks` must be empty; one entry with the fields of CHUNK is appended for each file, then one for each compressed
    chunk. Message data is only read where a chunk is compressed. Raises as `count_messages` does.
    """
    chunks.extend((number, 0, 0, b"") for number in range(len(files)))
    for number, file in enumerate(files):
        yield from (item for item in _walk_file(file, number, chunks) if isinstance(item, Message))


class MessageReader:
    """Reads messages at known offsets.

    Every process that uses it opens the files for itself. The chunk that was decompressed last is kept. `chunks` may
    grow while they are found.
    """

    _chunk: tuple[int, bytes]
    """Number and content of that chunk."""

    def __init__(self, files: Sequence[Path], chunks: NDArray[np.void] | list[tuple[Any, ...]]) -> None:
        self._files = tuple(files)
        self._chunks = chunks
        self._reset()

    def read(self, offset: int, size: int, chunk: int) -> bytes:
        """Return the data of a message. Raises whatever the operating system or a decompressor raises."""
        data = self._stored(offset, size, chunk)
        return decompress("zstd", data) if data[:4] == ZSTD else data

    def _stored(self, offset: int, size: int, chunk: int) -> bytes:
        if self._process != os.getpid():  # neither a database nor a position in a file survives a fork
            self._reset()
        file, start, compressed_size, compression = tuple(self._chunks[chunk])
        if self._files[file].suffix == ".db3":
            row: tuple[bytes] = self._database(file).execute(sqlite_files.SELECT_DATA, (offset,)).fetchone()
            return row[0]
        if not compression:
            return os.pread(self._stream(file), size, offset)
        if self._chunk[0] != chunk:
            data = os.pread(self._stream(file), int(compressed_size), int(start))
            self._chunk = (chunk, decompress(compression.decode(), data))
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
            self._databases[file] = sqlite_files.open_database(self._files[file])
        return self._databases[file]


def decompress(compression: str, data: bytes) -> bytes:
    """Decompress bz2, lz4 or zstd. Raises what the decompressor raises, and KeyError for another compression."""
    if compression == "bz2":
        return bz2.decompress(data)
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    return DECOMPRESSORS[compression](data, 0)


def _walk_file(file: Path, number: int, chunks: list[tuple[Any, ...]]) -> Iterator[Connection | Message]:
    """Yield the connections and messages of a file; see `find_messages`."""
    if file.suffix == ".db3":
        yield from sqlite_files.messages(file, number)
        return
    form = ros1_files if file.suffix == ".bag" else mcap_files
    with file.open("rb") as stream:
        check_magic(stream.read(len(form.MAGIC)), form.MAGIC)
        connections: dict[int, Connection] = {}
        yield from _walk(form.records, stream, len(form.MAGIC), file.stat().st_size, number, chunks, connections)
        yield from (connection for connection in connections.values() if connection.topic)


def _walk(
    records: Records,
    stream: BinaryIO,
    start: int,
    end: int,
    chunk: int,
    chunks: list[tuple[Any, ...]],
    connections: dict[int, Connection],
) -> Iterator[Message]:
    """Yield the messages between two offsets of a stream, which is the content of `chunk`; descends into chunks."""
    for record in records(stream, start, end, connections):
        if isinstance(record, RecordedMessage):
            yield Message(connections[record.connection], record.time, record.offset, record.size, chunk)
        elif record.compression in ("", "none"):
            inner_end = record.offset + record.size
            yield from _walk(records, stream, record.offset, inner_end, chunk, chunks, connections)
        else:
            stream.seek(record.offset)
            content = decompress(record.compression, stream.read(record.size))
            file = chunks[chunk][0]
            chunks.append((file, record.offset, record.size, record.compression.encode()))
            inner = io.BytesIO(content)
            yield from _walk(records, inner, 0, len(content), len(chunks) - 1, chunks, connections)


_SUMMARIES: dict[str, Callable[[Path], dict[Connection, int] | None]] = {
    ".mcap": mcap_files.summary,
    ".bag": ros1_files.summary,
    ".db3": sqlite_files.summary,
}
