"""Leave out near-duplicate frames: the log of a robot that stands still repeats itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import CompressedImageLike, ImageLike, check_header, to_rgb
from dino_ros.images.near_duplicates import NEAR_DUPLICATE_THRESHOLD, THUMBNAIL, difference, thumbnail_of_gray
from dino_train.data.cache import Cache
from dino_train.machine.progress import watched
from dino_train.ranges import check_ranges

log = logging.getLogger(__name__)

MANY = 0.5
"""Share of near-duplicates from which on the log says how to keep more."""


@dataclass(frozen=True)
class SelectionParameters:
    """Which frames of a recording are near-duplicates of an earlier one. Raises UserError if out of range."""

    near_duplicate_threshold: float = NEAR_DUPLICATE_THRESHOLD
    """A frame is kept if at least one cell of its 16x12 thumbnail differs from the last kept frame by this many gray
    levels (0 to 255); 0 keeps every frame. The cell that differs most decides, not the mean over cells: a small moving
    object changes one cell a lot and the mean little, sensor noise changes every cell a little."""

    def __post_init__(self) -> None:
        check_ranges(self)


class Recording(Protocol):
    """Frames in order of time."""

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
        """Yield the thumbnail of every frame, None where it does not decode."""


class SelectedFrames:
    """The frames of a recording without near-duplicates. Raises UserError if not one frame decodes."""

    def __init__(self, recording: Recording, parameters: SelectionParameters) -> None:
        self.recording = recording
        self.parameters = parameters
        self.name = recording.name
        kept = last_kept_frames(recording, parameters)
        self.near_duplicates = len(_near_duplicates(kept))
        self.undecodable = int(np.count_nonzero(kept < 0))
        self.numbers = np.flatnonzero(kept == np.arange(len(kept))).astype(np.uint32)
        """Numbers of the kept frames."""
        if not len(self.numbers):
            raise UserError(f"None of the {len(recording)} frames of {self.name} decodes: leave it out.")
        log.info(
            "%s: kept %d of %d frames, dropped %d near-duplicates (less than %g gray levels from the last kept frame), "
            "skipped %d that do not decode%s",
            self.name,
            len(self.numbers),
            len(recording),
            self.near_duplicates,
            parameters.near_duplicate_threshold,
            self.undecodable,
            self._how_to_keep_more() if self.near_duplicates > MANY * len(recording) else "",
        )

    def _how_to_keep_more(self) -> str:
        """What to write to keep more: the highest threshold that keeps half of the frames, else that keeps all."""
        decoded = len(self.recording) - self.undecodable
        lower = np.arange(np.ceil(self.parameters.near_duplicate_threshold) - 1, 0, -1)  # differences are whole numbers
        for threshold in lower.tolist():
            kept = last_kept_frames(self.recording, SelectionParameters(threshold))
            if (count := int(np.count_nonzero(kept == np.arange(len(kept))))) >= decoded / 2:
                return f"; --near_duplicate_threshold {threshold:g} would keep {count}, 0 all"
        return f"; --near_duplicate_threshold 0 would keep all {decoded}"

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.recording[int(self.numbers[index])]

    def dropped(self, count: int) -> list[tuple[int, int, int]]:
        """Up to `count` near-duplicates: their number, that of the kept frame, their difference in gray levels.

        The near-duplicates are split into `count` stretches and the one that differs most is taken from each, since
        that is where the selection is most likely to be wrong.
        """
        thumbnails, _ = all_thumbnails(self.recording)
        kept = last_kept_frames(self.recording, self.parameters)
        numbers = _near_duplicates(kept)
        examples = []
        for stretch in np.array_split(numbers, min(count, len(numbers)) or 1):
            pairs = [(n, kept[n], difference(thumbnails[n], thumbnails[kept[n]])) for n in stretch.tolist()]
            examples += [max(pairs, key=lambda pair: pair[2])] if pairs else []
        return examples


def last_kept_frames(recording: Recording, parameters: SelectionParameters) -> NDArray[np.int32]:
    """Number of the last kept frame at each frame [N]: its own number if it is kept, -1 if it does not decode.

    From the cache if it has it.
    """
    name = f"kept {parameters.near_duplicate_threshold:g} {recording.name}"
    arrays = recording.cache.load([name])
    if not arrays:
        arrays = {name: _last_kept_frames(recording, parameters).astype(np.int32)}
        recording.cache.add(arrays)
    return arrays[name]


def _last_kept_frames(recording: Recording, parameters: SelectionParameters) -> NDArray[np.int64]:
    thumbnails, decoded = all_thumbnails(recording)
    kept = np.full(len(thumbnails), -1)
    last = -1
    for number in np.flatnonzero(decoded).tolist():
        if last < 0 or difference(thumbnails[number], thumbnails[last]) >= parameters.near_duplicate_threshold:
            last = number
        kept[number] = last
    return kept


def thumbnail_of_message(message: ImageLike | CompressedImageLike, least_bits: int = 0) -> NDArray[np.uint8] | None:
    """Thumbnail [12, 16] of an image message, None if it does not decode; `least_bits` is that of `to_rgb`."""
    try:
        if not hasattr(message, "encoding") and bytes(message.data[:2]) == b"\xff\xd8":
            check_header(bytes(message.data))
            # Decode a JPEG at an eighth of its size: each pixel is the mean of a block, which is stored in the file.
            gray = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
            if gray is not None and gray.shape[0] >= THUMBNAIL[1] and gray.shape[1] >= THUMBNAIL[0]:
                return thumbnail_of_gray(gray)
        return thumbnail_of_gray(cv2.cvtColor(to_rgb(message, least_bits=least_bits), cv2.COLOR_RGB2GRAY))
    except (UserError, cv2.error):  # the latter for a header that asks for more pixels than OpenCV allows
        return None


def _near_duplicates(kept: NDArray[np.int32]) -> NDArray[np.int64]:
    """Numbers of the near-duplicates among frames, given the last kept frame at each of them."""
    return np.flatnonzero((kept >= 0) & (kept != np.arange(len(kept))))


def all_thumbnails(recording: Recording) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Thumbnails [N, 12, 16] and which frames decoded [N], from the cache if it has them."""
    names = [f"thumbnails {recording.name}", f"decoded {recording.name}"]
    arrays = recording.cache.load(names)
    if not arrays:
        thumbnails = np.zeros((len(recording), *THUMBNAIL[::-1]), np.uint8)
        decoded = np.zeros(len(recording), np.bool_)
        looking = watched(recording.thumbnails(), f"looking for near-duplicates in {recording.name}", len(recording))
        for number, thumbnail in enumerate(looking):
            if thumbnail is not None:
                thumbnails[number], decoded[number] = thumbnail, True
        arrays = dict(zip(names, (thumbnails, decoded), strict=True))
        recording.cache.add(arrays)
    return arrays[names[0]], arrays[names[1]]
