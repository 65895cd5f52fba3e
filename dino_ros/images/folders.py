"""Which files of a folder are images: one rule for playing and for training."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dino_ros.errors import UserError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})


def is_stray(name: str) -> bool:
    """Whether a file or folder of that name is left behind by an operating system, or hidden."""
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a path, in a folder or an archive, is that of an image."""
    parts = name.split("/")
    return os.path.splitext(parts[-1])[1].lower() in IMAGE_SUFFIXES and not any(
        is_stray(part) for part in parts if part not in (".", "..")
    )


def files_below(folder: str | Path) -> Iterator[str]:
    """Yield the path, relative to the folder, of every file in it and in its subfolders, linked ones included.

    Left out are stray files and folders, dangling links and whatever else is not a file: sockets, pipes. A folder that
    links lead to again is walked once.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=_warn, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not is_stray(name))
        for name in names:
            path = os.path.join(place, name)
            if not is_stray(name) and os.path.isfile(path):
                yield os.path.relpath(path, folder)


def _warn(error: OSError) -> None:
    log.warning("left out: %s cannot be read (%s)", error.filename, error.strerror)


def image_files(folder: Path) -> list[Path]:
    """Image files in a folder and its subfolders, sorted. See `files_below` for what is left out."""
    return sorted(folder / name for name in files_below(folder) if is_image_name(name))


def check_no_pipe(path: Path) -> None:
    """Raise UserError for what is neither a file nor a folder: reading from a pipe may wait for ever."""
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a pipe or a device: copy what comes out of it into a file.")


def natural(file: Path) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits in a path as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(file))]
