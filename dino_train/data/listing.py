"""Which images a run was started with, so that it goes on with the same ones, in the same order."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_ros.images.sources import readable
from dino_train.data.frames import Frames, MixedFrames
from dino_train.data.images import Entry, FolderFrames, TarFrames
from dino_train.data.selection import SelectedFrames

log = logging.getLogger(__name__)

NAMED = 3
"""Names that a warning gives at most."""
LISTING_NAME = "images.json"
"""In a run's folder: a `Listing`."""

Listing = list[dict[str, Any]]
"""For each source its `name`, how many `images` it has, the `fingerprint` of their names and sizes, and of a folder the
`files`, an `Entry` each."""


def list_images(frames: MixedFrames) -> Listing:
    """List every image of the data."""
    listing = []
    for source in frames.sources:
        images = entries(source)
        listed = {"name": source.name, "images": len(images), "fingerprint": entries_hash(images)}
        listing.append({**listed, "files": images} if isinstance(source, FolderFrames) else listed)
    return listing


def entries(source: Frames) -> list[Entry]:
    """Every image of a source, in order; those of a recording go by their times, with the size of the whole file."""
    if isinstance(source, FolderFrames | TarFrames):
        return source.entries()
    recording: Any = source
    numbers: slice | NDArray[np.uint32] = slice(None)
    if isinstance(source, SelectedFrames):
        recording, numbers = source.recording, source.numbers
    size = recording.path.stat().st_size if recording.path.is_file() else 0
    return [(str(time), size) for time in recording.times[numbers].tolist()]


def entries_hash(images: list[Entry]) -> str:
    """SHA-256 of names and sizes, in hexadecimal."""
    return hashlib.sha256(os.fsencode("".join(f"{name}\0{size}\0" for name, size in images))).hexdigest()


def fingerprint(listing: Listing) -> str:
    """SHA-256 of all names and sizes, in hexadecimal."""
    return hashlib.sha256("".join(source["fingerprint"] for source in listing).encode()).hexdigest()


def keep_listing(frames: MixedFrames, run: Path) -> str:
    """Write a listing of the data into the folder of a run; returns its fingerprint."""
    listing = list_images(frames)
    write_whole(run / LISTING_NAME, json.dumps(listing).encode())
    return fingerprint(listing)


def as_started(frames: MixedFrames, expected: str, run: Path) -> MixedFrames:
    """The data of a run as it was when the run started, with the fingerprint `expected`.

    A folder's files keep their numbers: of those that are gone a warning names one, and each is left out when its turn
    comes; new ones are not used. Raises UserError where another kind of data has changed.
    """
    now = list_images(frames)
    if fingerprint(now) == expected:
        return frames
    started = read_listing(run / LISTING_NAME)
    if fingerprint(started) != expected or len(started) != len(now):
        raise UserError(
            f"The data, {len(frames)} images, is not that with which {run} was started: restore it, or start a new run."
        )
    sources = []
    for source, before, after in zip(frames.sources, started, now, strict=True):
        if before["fingerprint"] == after["fingerprint"]:
            sources.append(source)
        elif isinstance(source, FolderFrames) and "files" in before:
            tell_changes(source.name, before["files"], after["files"])
            sources.append(FolderFrames(source.name, source.folder, [name for name, _ in before["files"]]))
        else:
            raise UserError(
                f"{source.name} is not what it was when {run} was started: it had {before['images']} images, and has "
                f"{after['images']} now: restore it, or start a new run."
            )
    return MixedFrames(sources, frames.weights, frames.left_out)


def read_listing(path: Path) -> Listing:
    """Read a listing; empty if there is none, or none that is whole."""
    try:
        listing: Listing = json.loads(path.read_bytes())
        return [source for source in listing if {"name", "images", "fingerprint"} <= source.keys()]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def tell_changes(folder: str, before: list[list[Any]], after: list[Entry]) -> None:
    """Warn of the files of a folder that are gone, have another size, or are new."""
    old, new = dict(before), dict(after)
    for change, fate, names in (
        ("gone", ", and left out", [name for name in old if name not in new]),
        ("changed", "", [name for name in old if new.get(name, old[name]) != old[name]]),
        ("new", ", and not used", [name for name in new if name not in old]),
    ):
        if names:
            log.warning("%s: %d %s since the run was started%s: %s", folder, len(names), change, fate, some(names))


def some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(map(readable, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
