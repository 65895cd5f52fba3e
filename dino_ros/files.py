"""Files that are written whole or not at all, and the user's cache: nothing in it is needed, all of it saves time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """`$XDG_CACHE_HOME/dino_ros/<kind>` (default: ~/.cache); it may not exist yet."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dino_ros" / kind


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside it, which takes its place at the end.

    The temporary file has the same ending, for writers that choose the format by it. It is flushed to the disk before
    it is renamed, and removed if the body raises or writes nothing. Makes the folder. Raises OSError where it cannot
    be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write these bytes with `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
