"""Leave out frames in which nothing happened: a log of a robot that stands still repeats itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from dino_ros.errors import UserError
from dino_ros.images.encodings import CompressedImageLike, ImageLike, to_rgb
from dino_train.config import NEAR_DUPLICATE_THRESHOLD
from dino_train.data.cache import Cache

log = logging.getLogger(__name__)

SIZE = (16, 12)
"""Width and height of a thumbnail in cells. A cell of a VGA image is the mean of 1600 pixels: noise cancels out."""


@dataclass(frozen=True)
class SelectionParameters:
    """Which frames of a recording are near-duplicates of one before. Raises UserError if out of range."""

    near_duplicate_threshold: float = NEAR_DUPLICATE_THRESHOLD
    """Gray levels (0 to 255) by which at least one cell of a 16x12 grid must differ from the frame kept before, for a
    frame to be kept; 0 keeps everything. The cell that differs most counts, not their mean: a small object that moves
    changes one cell much and the mean little, noise of the sensor changes every cell a little."""

    def __post_init__(self) -> None:
        if not 0 <= self.near_duplicate_threshold <= 255:
            raise UserError(
                f"The selection's distance {self.near_duplicate_threshold} is not within 0 and 255: 0 keeps all frames."
            )


class Recording(Protocol):
    """Frames in the order of their times."""

    name: str
    cache: Cache

    def __len__(self) -> int:
        """Return the number of frames."""

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one frame, RGB [H, W, 3]; raises UserError if it cannot be decoded."""

    @property
    def encoding(self) -> str:
        """How frames are stored."""

    @property
    def times(self) -> NDArray[np.int64]:
        """Times of the frames [N] in ns."""

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Thumbnail of every frame, None where it does not decode."""


class SelectedFrames:
    """The frames of a recording that are worth training on. Raises UserError if not one of its frames decodes."""

    def __init__(self, recording: Recording, parameters: SelectionParameters) -> None:
        self.recording = recording
        self.parameters = parameters
        self.name = recording.name
        alike = resemblance(recording, parameters)
        self.near_duplicates = int(np.count_nonzero((alike >= 0) & (alike != np.arange(len(alike)))))
        self.undecodable = int(np.count_nonzero(alike < 0))
        self.numbers = np.flatnonzero(alike == np.arange(len(alike))).astype(np.uint32)
        if not len(self.numbers):
            raise UserError(f"None of the {len(recording)} frames of {self.name} decodes: leave it out.")
        log.info(
            "%s: kept %d of %d frames, dropped %d near-duplicates (nearer than %g to the frame kept before), "
            "skipped %d that do not decode",
            self.name,
            len(self.numbers),
            len(recording),
            self.near_duplicates,
            parameters.near_duplicate_threshold,
            self.undecodable,
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.recording[int(self.numbers[index])]

    def dropped(self, count: int) -> list[tuple[int, int, int]]:
        """Up to `count` near-duplicates: number, number of the kept frame it resembles, difference in gray levels.

        Of each stretch of the recording the one that differs most, for that is where the selector may be wrong.
        """
        thumbnails, _ = _thumbnails(self.recording)
        alike = resemblance(self.recording, self.parameters)
        numbers = np.flatnonzero((alike >= 0) & (alike != np.arange(len(alike))))
        examples = []
        for stretch in np.array_split(numbers, min(count, len(numbers)) or 1):
            pairs = [(n, alike[n], difference(thumbnails[n], thumbnails[alike[n]])) for n in stretch.tolist()]
            examples += [max(pairs, key=lambda pair: pair[2])] if pairs else []
        return examples


def resemblance(recording: Recording, parameters: SelectionParameters) -> NDArray[np.int64]:
    """Number of the kept frame that each frame resembles [N]: its own if it is kept, -1 if it does not decode."""
    thumbnails, decoded = _thumbnails(recording)
    alike = np.full(len(thumbnails), -1)
    kept = -1
    for number in np.flatnonzero(decoded).tolist():
        if kept < 0 or difference(thumbnails[number], thumbnails[kept]) >= parameters.near_duplicate_threshold:
            kept = number
        alike[number] = kept
    return alike


def difference(thumbnail: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Gray levels by which the cell that differs most differs."""
    return int(cv2.norm(thumbnail, other, cv2.NORM_INF))


def thumbnail_of(message: ImageLike | CompressedImageLike) -> NDArray[np.uint8] | None:
    """Thumbnail of an image message, None if it does not decode."""
    if not hasattr(message, "encoding") and bytes(message.data[:2]) == b"\xff\xd8":
        # A JPEG is decoded at an eighth of its size: each pixel is the mean of a block, which the file holds as such.
        gray = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if gray is not None and gray.shape[0] >= SIZE[1] and gray.shape[1] >= SIZE[0]:
            return shrink(gray)
    try:
        return shrink(cv2.cvtColor(to_rgb(message), cv2.COLOR_RGB2GRAY))
    except UserError:
        return None


def shrink(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Thumbnail [12, 16], the means of its cells, of a gray image [H, W] uint8."""
    return cv2.resize(gray, SIZE, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _thumbnails(recording: Recording) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Thumbnails [N, 12, 16] and which ones decoded [N], in the cache if they are there."""
    names = [f"thumbnails {recording.name}", f"decoded {recording.name}"]
    arrays = recording.cache.load(names)
    if not arrays:
        thumbnails = np.zeros((len(recording), *SIZE[::-1]), np.uint8)
        decoded = np.zeros(len(recording), np.bool_)
        console = Console(stderr=True)
        progress = track(
            recording.thumbnails(),
            recording.name,
            total=len(recording),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        for number, thumbnail in enumerate(progress):
            if thumbnail is not None:
                thumbnails[number], decoded[number] = thumbnail, True
        arrays = dict(zip(names, (thumbnails, decoded), strict=True))
        recording.cache.add(arrays)
    return arrays[names[0]], arrays[names[1]]
