"""What a robot's camera has seen: a bounded number of images, without near-duplicates, as diverse as they come."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import remove_leftovers, write_whole
from dino_ros.images.near_duplicates import NEAR_DUPLICATE_THRESHOLD, THUMBNAIL, difference, thumbnail_of_gray

LONGEST_SIDE = 640
"""Larger images are scaled down to this many pixels: students look at fewer."""
QUALITY = 90
"""Of the JPEG files."""
STRETCH = 10
"""Images are held back in stretches of this many: single ones would look like their neighbors, which are trained on."""
HELD_BACK_EVERY = 5
"""One stretch of this many is held back."""
TRAINED_ON, HELD_BACK = "train", "held_back"
"""Folders of a snapshot."""


class Reservoir:
    """Images in a folder as JPEG, with an index; a kill or a power cut at any moment loses no image that was kept.

    An image that differs from any that is there by less than NEAR_DUPLICATE_THRESHOLD is left out: a parked robot, and
    one that drives in circles, fill nothing. Where the images take more than `budget` bytes, the older of the two that
    are most alike, by the cosine of their embeddings, is removed, until they do not. Thread-safe.

    The index is an SQLite database, and a transaction of it decides whether an image is kept: a file that it does not
    name is removed at the next opening. Raises UserError if the folder cannot be used.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder
        self.budget = budget
        self._images = folder / "images"
        self._lock = threading.Lock()
        try:
            self._images.mkdir(parents=True, exist_ok=True)
            self._owned = (folder / "in_use").open("w")
            fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder} is used by another learner: give each a folder of its own.") from error
        except OSError as error:
            raise UserError(f"{folder} cannot hold what the camera sees ({error}): name another folder.") from error
        try:
            self._index = sqlite3.connect(folder / "index.sqlite", check_same_thread=False)
            with self._index:
                self._index.execute(
                    "CREATE TABLE IF NOT EXISTS images "
                    "(number INTEGER PRIMARY KEY AUTOINCREMENT, bytes INTEGER NOT NULL, embedding BLOB NOT NULL, "
                    "thumbnail BLOB NOT NULL)"
                )
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{folder} cannot hold what the camera sees ({error}): name another folder.") from error

    def _open(self) -> None:
        """Read the index, and make it and the files agree."""
        remove_leftovers(self._images)
        rows = self._index.execute("SELECT number, bytes, embedding, thumbnail FROM images ORDER BY number").fetchall()
        files = {file.name for file in self._images.iterdir()}
        there = [row for row in rows if self._file(row[0]).name in files]
        self._forget([row[0] for row in rows if row not in there])
        for name in files - {self._file(row[0]).name for row in there}:
            (self._images / name).unlink()
        self._numbers = [row[0] for row in there]
        self._bytes = {row[0]: row[1] for row in there}
        self._embeddings = [np.frombuffer(row[2], np.float32) for row in there]
        self._thumbnails = [np.frombuffer(row[3], np.uint8).reshape(THUMBNAIL[::-1]) for row in there]
        self._nearest = [-1] * len(there)
        self._likeness = [-np.inf] * len(there)
        for position in range(len(there)):
            self._find_nearest(position)

    def _file(self, number: int) -> Path:
        return self._images / f"{number:08d}.jpg"

    @property
    def kept(self) -> int:
        """How many images were ever kept, those included that made room for others."""
        with self._lock:
            row = self._index.execute("SELECT seq FROM sqlite_sequence WHERE name = 'images'").fetchone()
            return int(row[0]) if row else 0

    @property
    def size(self) -> int:
        """Bytes that the images take."""
        with self._lock:
            return sum(self._bytes.values())

    def count(self, part: str) -> int:
        """How many images there are to be trained on, or held back."""
        with self._lock:
            return sum(part_of(number) == part for number in self._numbers)

    def offer(self, rgb: NDArray[np.uint8], embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> bool:
        """Keep an image, RGB [H, W, 3], unless it is a near-duplicate; whether it was kept.

        `embed` makes the embedding [C] of it, always of the same student; it is called only for an image that is kept.
        Raises OSError if it cannot be written.
        """
        thumbnail = thumbnail_of_gray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
        with self._lock:  # from the latest on: a robot that stands still is recognized at once
            if any(difference(thumbnail, other) < NEAR_DUPLICATE_THRESHOLD for other in reversed(self._thumbnails)):
                return False
        embedding = embed(rgb)
        embedding = (embedding / max(float(np.linalg.norm(embedding)), 1e-12)).astype(np.float32)
        data = jpeg(rgb)
        with self._lock:
            self._add(data, embedding, thumbnail)
            while sum(self._bytes.values()) > self.budget and len(self._numbers) > 1:
                self._remove(self._most_redundant())
        return True

    def _add(self, data: bytes, embedding: NDArray[np.float32], thumbnail: NDArray[np.uint8]) -> None:
        try:
            with self._index:  # commits, or undoes what a failure left
                row = (len(data), embedding.tobytes(), thumbnail.tobytes())
                insert = "INSERT INTO images (bytes, embedding, thumbnail) VALUES (?, ?, ?)"
                number = self._index.execute(insert, row).lastrowid
                assert number is not None  # of an INSERT
                write_whole(self._file(number), data)
        except sqlite3.Error as error:
            raise OSError(f"the index of {self.folder} cannot be written ({error})") from error
        likeness = [float(other @ embedding) for other in self._embeddings]
        for position, alike in enumerate(likeness):
            if alike > self._likeness[position]:
                self._likeness[position], self._nearest[position] = alike, number
        self._numbers.append(number)
        self._bytes[number] = len(data)
        self._embeddings.append(embedding)
        self._thumbnails.append(thumbnail)
        self._likeness.append(-np.inf)
        self._nearest.append(-1)
        self._find_nearest(len(self._numbers) - 1)

    def _find_nearest(self, position: int) -> None:
        """Note which other image is most like that at a position."""
        if len(self._numbers) < 2:
            return
        likeness = np.stack(self._embeddings) @ self._embeddings[position]
        likeness[position] = -np.inf
        nearest = int(likeness.argmax())
        self._likeness[position], self._nearest[position] = float(likeness[nearest]), self._numbers[nearest]

    def _most_redundant(self) -> int:
        """The older of the two images that are most alike."""
        position = int(np.argmax(self._likeness))
        return int(min(self._numbers[position], self._nearest[position]))

    def _remove(self, number: int) -> None:
        self._forget([number])
        self._file(number).unlink(missing_ok=True)
        position = self._numbers.index(number)
        for of_each in (self._numbers, self._embeddings, self._thumbnails, self._likeness, self._nearest):
            del of_each[position]
        del self._bytes[number]
        for position, nearest in enumerate(self._nearest):
            if nearest == number:
                self._find_nearest(position)

    def _forget(self, numbers: list[int]) -> None:
        with self._index:
            self._index.executemany("DELETE FROM images WHERE number = ?", [(number,) for number in numbers])

    def snapshot(self, folder: Path) -> None:
        """Make a folder of the images as they are now, in TRAINED_ON and HELD_BACK, whole or not at all.

        Its files are links: they take no space, and stay when the reservoir removes theirs. Raises OSError, as on a
        file system without links.
        """
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        for part in (TRAINED_ON, HELD_BACK):
            (temporary / part).mkdir(parents=True)
        with self._lock:
            for number in self._numbers:
                os.link(self._file(number), temporary / part_of(number) / self._file(number).name)
        temporary.rename(folder)

    def close(self) -> None:
        """Close the index, and leave the folder to others."""
        with self._lock:
            self._index.close()
            self._owned.close()


def part_of(number: int) -> str:
    """Whether an image is trained on or held back."""
    return HELD_BACK if number // STRETCH % HELD_BACK_EVERY == HELD_BACK_EVERY - 1 else TRAINED_ON


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """An image, RGB [H, W, 3], as JPEG of at most LONGEST_SIDE."""
    scale = LONGEST_SIDE / max(rgb.shape[:2])
    if scale < 1:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    written, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert written  # of an image that is in memory
    return data.tobytes()
