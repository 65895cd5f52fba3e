"""What the formats of bags share: topics as recorded, and the records that hold messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple


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
    """Number of the chunk that it lies in; see CHUNK in bag_files.py."""


class Chunk(NamedTuple):
    """A part of a file that holds records, compressed or not."""

    compression: str
    """Its name; empty or "none" where there is none."""
    offset: int
    size: int
    """Bytes, as stored."""


class RecordedMessage(NamedTuple):
    """Where a message lies in what is walked: a file, or a chunk once it is decompressed."""

    connection: int
    """Its number in the file."""
    time: int
    """When it was recorded, ns."""
    offset: int
    size: int


Records = Callable[[BinaryIO, int, int, dict[int, Connection]], Iterator[RecordedMessage | Chunk]]
"""Reads the records of a stream from one offset to another; connections met on the way are added to the dictionary."""


def check_magic(found: bytes, expected: bytes) -> None:
    """Raise ValueError for a file that does not begin as it must."""
    if found != expected:
        raise ValueError("it does not begin as such a file does" if found else "it is empty")


def check_end(start: int, size: int, end: int) -> None:
    """Raise EOFError for a record that goes beyond the end."""
    if start + size > end:
        raise EOFError("it ends in the middle of a record")


def summed(counts: Iterator[tuple[Connection, int]]) -> dict[Connection, int]:
    """Counts by connection; several publishers of a topic may be recorded apart."""
    sums: dict[Connection, int] = {}
    for connection, count in counts:
        sums[connection] = sums.get(connection, 0) + count
    return sums


def ros2_type(name: str) -> str:
    """A ROS 1 type's name, package/Name, as ROS 2 writes it; other names stay."""
    return re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", name)
