"""The files of a bag, MCAP, SQLite3 and ROS 1: their topics, where messages lie in them, and reading them from there.

rosbags parses the definition of every topic before it gives a single message, so one topic that it does not understand
spoils all others; and it does not tell where messages lie. So the files are walked here, and rosbags is left what it
does per message: decompressing and deserializing.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import hashlib
import io
import logging
import os
import re
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dino_ros.files import cache_folder, replacing

log = logging.getLogger(__name__)

MESSAGE = np.dtype([("time", "<i8"), ("offset", "<i8"), ("size", "<u4"), ("chunk", "<u4")])
"""A message: the time it was recorded at in ns; offset and size of its data within the chunk, in bytes. In an SQLite3
file the offset is the row's id."""
CHUNK = np.dtype([("file", "<u4"), ("offset", "<i8"), ("size", "<i8"), ("compression", "S4")])
"""A compressed part of a file, with its offset and compressed size in bytes; where `compression` is empty, the whole
file instead."""

MCAP_MAGIC = b"\x89MCAP0\r\n"
MCAP_FOOTER = 37
"""Bytes of the last record and the magic after it."""
ROS1_MAGIC = b"#ROSBAG V2.0\n"
ROS1_MESSAGE, ROS1_CHUNK, ROS1_CHUNK_INFO, ROS1_CONNECTION = b"\x02", b"\x05", b"\x06", b"\x07"
"""Values of a record's `op`."""
SELECT_CONNECTIONS = "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
SELECT_DEFINITIONS = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
SELECT_COUNTS = "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
SELECT_OFFSETS = "SELECT topic_id, timestamp, id, length(data) FROM messages ORDER BY timestamp"
SELECT_DATA = "SELECT data FROM messages WHERE id = ?"
ZSTD = b"\x28\xb5\x2f\xfd"
"""How a compressed message begins; serialized ones of ROS 2 begin with a zero."""


class Connection(NamedTuple):
    """A topic of one file, as recorded."""

    topic: str
    type: str
    """As ROS 2 writes it: package/msg/Name."""
    serialization: str
    """cdr, ros1, or one that is not ROS's."""
    definition: str = ""
    """The type's definition; bytes that are not UTF-8 are replaced."""
    definition_format: str = ""
    """ros2msg, ros1msg, ros2idl, or one that is not ROS's."""


class Message(NamedTuple):
    """Where a message lies."""

    connection: Connection
    time: int
    """When it was recorded, ns."""
    offset: int
    size: int
    chunk: int


class _Chunk(NamedTuple):
    compression: str
    offset: int
    size: int


class _Record(NamedTuple):
    connection: int
    time: int
    offset: int
    size: int


Records = Callable[[BinaryIO, int, int, dict[int, Connection]], Iterator[_Record | _Chunk]]
"""Reads the records of a stream from one offset to another; connections met on the way are added to the dictionary."""


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
            row: tuple[bytes] = self._database(file).execute(SELECT_DATA, (offset,)).fetchone()
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
            self._databases[file] = _open_database(self._files[file])
        return self._databases[file]


def decompress(compression: str, data: bytes) -> bytes:
    """Decompress bz2, lz4 or zstd. Raises what the decompressor raises, and KeyError for another compression."""
    if compression == "bz2":
        return bz2.decompress(data)
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    return DECOMPRESSORS[compression](data, 0)


def complete_database(file: Path) -> Path:
    """The .db3 itself, or a complete copy in the user's cache if its recorder was killed.

    SQLite3 keeps what it has not yet written into a database in a file beside it, and would write into the folder to
    read both. Raises OSError or sqlite3.Error if no copy can be made.
    """
    beside = [file.with_name(file.name + end) for end in ("-wal", "-journal")]
    beside = [other for other in beside if other.is_file() and other.stat().st_size]
    if not beside:
        return file
    states = [(other.name, other.stat().st_size, other.stat().st_mtime_ns) for other in (file, *beside)]
    digest = hashlib.sha256(repr((str(file.resolve()), states)).encode(errors="surrogateescape")).hexdigest()
    copy = cache_folder("recordings") / f"{digest[:16]}.db3"
    if not copy.is_file():
        log.warning("%s was not closed by its recorder: it is completed in a copy, %s", file, copy)
        with tempfile.TemporaryDirectory() as folder:
            for other in (file, *beside):
                shutil.copyfile(other, Path(folder) / other.name)
            with replacing(copy) as temporary, closing(sqlite3.connect(Path(folder) / file.name)) as database:
                database.execute("PRAGMA journal_mode = DELETE").fetchall()
                shutil.copyfile(Path(folder) / file.name, temporary)
    return copy


def _walk_file(file: Path, number: int, chunks: list[tuple[Any, ...]]) -> Iterator[Connection | Message]:
    """Yield the connections and messages of a file; see `find_messages`."""
    if file.suffix == ".db3":
        yield from _sqlite_messages(file, number)
        return
    records, start = (_ros1_records, ROS1_MAGIC) if file.suffix == ".bag" else (_mcap_records, MCAP_MAGIC)
    with file.open("rb") as stream:
        _check_magic(stream.read(len(start)), start)
        connections: dict[int, Connection] = {}
        yield from _walk(records, stream, len(start), file.stat().st_size, number, chunks, connections)
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
        if isinstance(record, _Record):
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


def _check_magic(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise ValueError("it does not begin as such a file does" if found else "it is empty")


def _check_end(start: int, size: int, end: int) -> None:
    if start + size > end:
        raise EOFError("it ends in the middle of a record")


# MCAP, https://mcap.dev/spec


def _mcap_records(
    stream: BinaryIO, start: int, end: int, connections: dict[int, Connection]
) -> Iterator[_Record | _Chunk]:
    for code, offset, size in _mcap_headers(stream, start, end):
        if code == 0x05:  # message: channel, sequence, times of recording and of publishing, data
            channel, _, time = struct.unpack("<HIQ", stream.read(14))
            yield _Record(channel, time, offset + 22, size - 22)
        elif code == 0x06:  # chunk: first and last time, uncompressed size, checksum, compression, records
            stream.seek(28, os.SEEK_CUR)
            compression = _mcap_string(stream)
            (compressed_size,) = struct.unpack("<Q", stream.read(8))
            yield _Chunk(compression, stream.tell(), compressed_size)
        elif code == 0x0F:  # end of data: a summary follows
            return
        else:
            _mcap_connection(stream, code, connections)
    if start == len(MCAP_MAGIC):
        raise EOFError("it ends without its last record")


def _mcap_headers(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, offset and size of each record; the stream stands at the record's content."""
    while start < end:
        stream.seek(start)
        code, size = struct.unpack("<BQ", stream.read(9))
        _check_end(start + 9, size, end)
        yield code, start + 9, size
        start += 9 + size


def _mcap_connection(stream: BinaryIO, code: int, connections: dict[int, Connection]) -> None:
    """Add a schema, under its number below zero, or a channel; other records are passed over."""
    if code == 0x03:  # schema: id, name, encoding, data
        (number,) = struct.unpack("<H", stream.read(2))
        name, encoding, definition = (_mcap_string(stream) for _ in range(3))
        connections[-number] = Connection("", _ros2_type(name), "", definition, encoding)
    elif code == 0x04:  # channel: id, schema id (0: none), topic, encoding of messages, metadata
        number, schema = struct.unpack("<HH", stream.read(4))
        topic, serialization = _mcap_string(stream), _mcap_string(stream)
        known = connections.get(-schema, Connection("", "", "")) if schema else Connection("", "", "")
        connections[number] = known._replace(topic=topic, serialization=serialization)


def _mcap_string(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<I", stream.read(4))
    return stream.read(length).decode(errors="replace")


def _mcap_summary(file: Path) -> dict[Connection, int] | None:
    with file.open("rb") as stream:
        _check_magic(stream.read(len(MCAP_MAGIC)), MCAP_MAGIC)
        end = file.stat().st_size - MCAP_FOOTER
        stream.seek(max(end, 0))
        footer = stream.read(MCAP_FOOTER)
        if len(footer) < MCAP_FOOTER or footer[-len(MCAP_MAGIC) :] != MCAP_MAGIC:
            raise EOFError("it ends without its last record")
        (start,) = struct.unpack_from("<Q", footer, 9)
        connections: dict[int, Connection] = {}
        counts: dict[int, int] | None = None
        for code, _, _ in _mcap_headers(stream, start, end) if start else ():
            if code == 0x0B:  # statistics: counts of this and that, first and last time, messages of each channel
                stream.seek(42, os.SEEK_CUR)
                (size,) = struct.unpack("<I", stream.read(4))
                counts = dict(struct.iter_unpack("<HQ", stream.read(size)))
            else:
                _mcap_connection(stream, code, connections)
    channels = {number: connection for number, connection in connections.items() if connection.topic}
    if counts is None or not counts.keys() <= channels.keys():
        return None
    return _summed((connection, counts.get(number, 0)) for number, connection in channels.items())


# ROS 1, https://wiki.ros.org/Bags/Format/2.0


def _ros1_records(
    stream: BinaryIO, start: int, end: int, connections: dict[int, Connection]
) -> Iterator[_Record | _Chunk]:
    for header, offset, size in _ros1_headers(stream, start, end):
        if header[b"op"] == ROS1_MESSAGE:
            seconds, nanoseconds = struct.unpack("<II", header[b"time"])
            yield _Record(_number(header[b"conn"]), seconds * 10**9 + nanoseconds, offset, size)
        elif header[b"op"] == ROS1_CHUNK:
            yield _Chunk(header[b"compression"].decode(), offset, size)
        elif header[b"op"] == ROS1_CONNECTION:
            _ros1_connection(stream, header, size, connections)


def _ros1_headers(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[dict[bytes, bytes], int, int]]:
    """Header of each record, offset and size of its data; the stream stands at the data."""
    while start < end:
        stream.seek(start)
        header = _ros1_fields(stream.read(_number(stream.read(4))))
        size = _number(stream.read(4))
        start = stream.tell()
        _check_end(start, size, end)
        yield header, start, size
        start += size


def _ros1_connection(
    stream: BinaryIO, header: Mapping[bytes, bytes], size: int, connections: dict[int, Connection]
) -> None:
    fields = {name: value.decode(errors="replace") for name, value in _ros1_fields(stream.read(size)).items()}
    topic = re.sub("/+", "/", header[b"topic"].decode(errors="replace"))
    connections[_number(header[b"conn"])] = Connection(
        topic, _ros2_type(fields[b"type"]), "ros1", fields.get(b"message_definition", ""), "ros1msg"
    )


def _ros1_fields(header: bytes) -> dict[bytes, bytes]:
    """Fields of a record's header by name."""
    fields, start = {}, 0
    while start < len(header):
        (size,) = struct.unpack_from("<I", header, start)
        name, _, value = header[start + 4 : start + 4 + size].partition(b"=")
        fields[name] = value
        start += 4 + size
    return fields


def _ros1_summary(file: Path) -> dict[Connection, int] | None:
    with file.open("rb") as stream:
        _check_magic(stream.read(len(ROS1_MAGIC)), ROS1_MAGIC)
        end = file.stat().st_size
        header, _, _ = next(_ros1_headers(stream, len(ROS1_MAGIC), end))
        (start,) = struct.unpack("<Q", header[b"index_pos"])
        if not start:
            return None
        _check_end(start, 0, end)
        connections: dict[int, Connection] = {}
        counts: dict[int, int] = {}
        for header, _, size in _ros1_headers(stream, start, end):
            if header[b"op"] == ROS1_CONNECTION:
                _ros1_connection(stream, header, size, connections)
            elif header[b"op"] == ROS1_CHUNK_INFO:
                for number, count in struct.iter_unpack("<II", stream.read(size)):
                    counts[number] = counts.get(number, 0) + count
    return _summed((connection, counts.get(number, 0)) for number, connection in connections.items())


def _number(data: bytes) -> int:
    number: int = struct.unpack("<I", data)[0]
    return number


# SQLite3


def _sqlite_messages(file: Path, number: int) -> Iterator[Connection | Message]:
    with closing(_open_database(file)) as database:
        connections = _sqlite_connections(database)
        yield from connections.values()
        for topic, time, row, size in database.execute(SELECT_OFFSETS):
            if topic in connections:
                yield Message(connections[topic], time, row, size, number)


def _sqlite_connections(database: sqlite3.Connection) -> dict[int, Connection]:
    definitions: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(sqlite3.OperationalError):  # the table came with ROS 2 Iron
        definitions = {kind: (text, form) for kind, form, text in database.execute(SELECT_DEFINITIONS)}
    return {
        number: Connection(topic, kind, serialization, *definitions.get(kind, ()))
        for number, topic, kind, serialization in database.execute(SELECT_CONNECTIONS)
    }


def _sqlite_summary(file: Path) -> dict[Connection, int]:
    with closing(_open_database(file)) as database:
        counts = dict(database.execute(SELECT_COUNTS))
        return _summed((one, counts.get(number, 0)) for number, one in _sqlite_connections(database).items())


def _open_database(file: Path) -> sqlite3.Connection:
    # Immutable: otherwise SQLite locks the file and writes next to it.
    database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    database.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
    return database


def _summed(counts: Iterator[tuple[Connection, int]]) -> dict[Connection, int]:
    """Counts by connection; several publishers of a topic may be recorded apart."""
    sums: dict[Connection, int] = {}
    for connection, count in counts:
        sums[connection] = sums.get(connection, 0) + count
    return sums


def _ros2_type(name: str) -> str:
    """A ROS 1 type's name, package/Name, as ROS 2 writes it; other names stay."""
    return re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", name)


_SUMMARIES: dict[str, Callable[[Path], dict[Connection, int] | None]] = {
    ".mcap": _mcap_summary,
    ".bag": _ros1_summary,
    ".db3": _sqlite_summary,
}
