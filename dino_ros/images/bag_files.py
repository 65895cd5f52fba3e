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
import threading
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
CHUNK = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<i8"), ("compression", "S4"), ("unpacked", "<i8")])
"""A compressed part of a file, with its offset, compressed and unpacked size in bytes; where `compression` is empty,
the whole file instead."""
OPEN_FILES = 256
"""Files of bags that a process keeps open; systems allow 1024 by default, for all that it does."""
UNPACKED_BYTES = 128 * 2**20
"""Of chunks that a process keeps decompressed."""
Chunks = NDArray[np.void] | Sequence[tuple[Any, ...]]
"""The chunks of a bag, of dtype CHUNK or with its fields; they may grow while they are found."""
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
            for item in _walk_file(file, 0, [(0, 0, 0, b"", 0)]):
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
    chunks.extend((number, 0, 0, b"", 0) for number in range(len(files)))
    for number, file in enumerate(files):
        yield from (item for item in _walk_file(file, number, chunks) if isinstance(item, Message))


class MessageReader(threading.local):
    """Reads messages at known offsets, of any number of bags.

    At most `open_files` files are open, and of chunks that were decompressed `unpacked_bytes` are kept, but always the
    last one; those used least recently go first. Every process and thread that uses it opens files for itself.
    """

    def __init__(self, open_files: int = OPEN_FILES, unpacked_bytes: int = UNPACKED_BYTES) -> None:
        self._open_files = open_files
        self._unpacked_bytes = unpacked_bytes
        self._reset()

    def read(self, files: Sequence[Path], chunks: Chunks, offset: int, size: int, chunk: int) -> bytes:
        """Return the data of a message, which lies in that one of the bag's chunks.

        Raises whatever the operating system or a decompressor raises.
        """
        data = self._stored(files, chunks, offset, size, chunk)
        return decompress("zstd", data) if data[:4] == ZSTD else data

    def forget(self, files: Sequence[Path]) -> None:
        """Close these files, and drop what was unpacked of them: others may stand under their names by now."""
        for file in files:
            if file in self._files:
                self._files.pop(file).close()
        for key in [key for key in self._unpacked if key[0] in files]:
            self._unpacked_size -= len(self._unpacked.pop(key))

    def _stored(self, files: Sequence[Path], chunks: Chunks, offset: int, size: int, chunk: int) -> bytes:
        if self._process != os.getpid():  # neither a database nor a position in a file survives a fork
            self._reset()
        number, start, compressed_size, compression, _ = tuple(chunks[chunk])
        file = files[number]
        if file.suffix == ".db3":
            row: tuple[bytes] = self._opened(file).execute(sqlite_files.SELECT_DATA, (offset,)).fetchone()
            return row[0]
        if not compression:
            return os.pread(self._opened(file).fileno(), size, offset)
        content = self._unpacked.pop((file, int(start)), None)
        if content is None:
            data = os.pread(self._opened(file).fileno(), int(compressed_size), int(start))
            content = decompress(compression.decode(), data)
            self._unpacked_size += len(content)
        self._unpacked[file, int(start)] = content
        while self._unpacked_size > self._unpacked_bytes and len(self._unpacked) > 1:
            self._unpacked_size -= len(self._unpacked.pop(next(iter(self._unpacked))))
        return content[offset : offset + size]

    def _opened(self, file: Path) -> Any:
        """The open file, a stream or a database."""
        opened = self._files.pop(file, None)
        if opened is None:
            opened = sqlite_files.open_database(file) if file.suffix == ".db3" else file.open("rb", buffering=0)
        self._files[file] = opened
        while len(self._files) > self._open_files:
            self._files.pop(next(iter(self._files))).close()
        return opened

    def _reset(self) -> None:
        self._process = os.getpid()
        self._files: dict[Path, BinaryIO | sqlite3.Connection] = {}
        self._unpacked: dict[tuple[Path, int], bytes] = {}
        """Contents of chunks by their file and place; like the files, those used last come last."""
        self._unpacked_size = 0


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
            chunks.append((file, record.offset, record.size, record.compression.encode(), len(content)))
            inner = io.BytesIO(content)
            yield from _walk(records, inner, 0, len(content), len(chunks) - 1, chunks, connections)


_SUMMARIES: dict[str, Callable[[Path], dict[Connection, int] | None]] = {
    ".mcap": mcap_files.summary,
    ".bag": ros1_files.summary,
    ".db3": sqlite_files.summary,
}
