"""Writing files whole or not at all, and the user's cache, which only saves time: it may be deleted."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dino_ros.errors import UserError, quoted


def named_path(name: str | Path) -> Path:
    """The path that a user names, which may not exist; a `~` that the shell left is the home folder.

    Raises UserError if nobody can tell whether it exists: the name is too long, a folder in it must not be read, there
    is no such user.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise UserError(
            f"{quoted(str(path))} cannot be looked for ({reason}): check the path and its permissions."
        ) from error
    return path


def cache_folder(kind: str) -> Path:
    """`$XDG_CACHE_HOME/dino_ros/<kind>` (default: ~/.cache); it may not exist yet."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "dino_ros" / kind


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path next to it, which replaces it at the end.

    The temporary file has the same suffix, for writers that choose the format by it, and the names of host and process:
    several may write one file at once, on a disk that hosts share. It is flushed to disk before it is
    renamed, and removed if the body raises. Makes the folder. Raises OSError, naming the file, if it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.uname().nodename}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or str(error.filename or temporary) != str(temporary):  # not of writing this file
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_writable(folder: Path) -> None:
    """Raise UserError if nothing can be written into a folder, which may not exist yet: better now than in hours.

    Writes a block and leaves nothing behind.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise UserError(f"{folder} cannot be written into ({error.strerror}): choose another --out.") from error


def check_replaceable(file: Path) -> None:
    """Raise UserError if a file, which may not exist yet, could not be written."""
    if file.is_dir():
        raise UserError(f"{file} is a folder: give --out the name of a file.")
    check_writable(file.parent)


def unusable_file(error: OSError) -> str:
    """A sentence about a file, named by the error, that the operating system refused to read or write."""
    return f"{error.filename} cannot be read or written ({error.strerror}): check path, permissions and disk."


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replacing` in a folder whose processes were killed, on this host."""
    for file in folder.glob(".*.tmp*"):
        process = re.search(rf"\.{re.escape(os.uname().nodename)}\.(\d+)\.tmp", file.name)
        if process and not Path("/proc", process[1]).exists():
            file.unlink(missing_ok=True)
