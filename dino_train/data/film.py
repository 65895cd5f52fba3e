"""A log is a film: what a frame shows, the frames around it show again, a moment earlier or later.

Two global crops of such a pair differ as views of the world do: by another viewpoint, a hand that moves, the camera's
noise. Frames are drawn as ever; what each is seen with may be a near-duplicate, which is not drawn itself.
"""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.stamps import SECOND
from dino_train.data.bags import BagFrames
from dino_train.data.frames import Frames
from dino_train.data.multicrop import Views
from dino_train.data.selection import Recording, SelectedFrames, all_thumbnails
from dino_train.data.video import VideoFrames

log = logging.getLogger(__name__)

SAME_SHOT = 0.7
"""Correlation of two successive frames' thumbnails below which there is a cut between them. In videos of hands and in
flight it was at least 0.96, and 0.75 half a second apart; of unrelated photographs it exceeds 0.61 in one pair of a
hundred. Some fast motion is taken for a cut, as in a thirteenth of rendered frames half a second apart: that forgoes
pairs, while a cut that is missed would make one of two scenes."""


class Film:
    """The frames of a recording, each with those of the same shot that are at most `seconds` apart from it.

    A crop is of a `stack` of successive frames of a shot.
    """

    def __init__(self, recording: Recording, drawn: NDArray[np.uint32], seconds: float, stack: int = 1) -> None:
        """`drawn` holds the numbers of the frames that are drawn, [N]."""
        self.recording = recording
        self.stack = stack
        self.drawn = drawn
        self.apart = round(seconds * SECOND)
        thumbnails, decoded = all_thumbnails(recording)
        self._numbers = np.flatnonzero(decoded)
        self._times = recording.times[self._numbers]
        cuts = np.flatnonzero(correlations(thumbnails[self._numbers]) < SAME_SHOT) + 1
        self._shots = np.array([0, *cuts, len(self._numbers)])
        """Where shots start among the frames that decode, and the end of the last one."""
        log.info(
            "%s: global crops from frames up to %g s apart, in stacks of %d, of %d frames in %d shots",
            recording.name, seconds, stack, len(self._numbers), len(cuts) + 1,
        )  # fmt: skip

    def other(self, number: int, at: float) -> int:
        """Number of the frame to see a frame with, itself among them: `at`, from 0 to below 1, picks one evenly."""
        place, start, end = self._find(number)
        if place < 0:
            return number
        time = self._times[place]
        start = max(start, int(np.searchsorted(self._times, time - self.apart)))
        end = min(end, int(np.searchsorted(self._times, time + self.apart, side="right")))
        return int(self._numbers[start + int(at * (end - start))])

    def stacked(self, number: int) -> list[int]:
        """Numbers of the frames of the stack that ends with a frame: the first of a shot stands for those before it."""
        place, start, _ = self._find(number)
        if place < 0:
            return self.stack * [number]
        return [int(self._numbers[max(place - back, start)]) for back in reversed(range(self.stack))]

    def views(self, index: int, at: float) -> Views:
        """The drawn frame of that index and the one to see it with, which `at` picks, each as a stack.

        A frame that cannot be read, or has another size, is replaced by the one that its stack ends with; a stack that
        should end with it, by the drawn one. Raises UserError if the drawn frame cannot be read.
        """
        number = int(self.drawn[index])
        other = self.other(number, at)
        images = {}
        for one in sorted({*self.stacked(number), *self.stacked(other)}):  # in order of time: video is decoded once
            try:
                images[one] = self.recording[one]
            except UserError:
                if one == number:
                    raise
        images = {one: image for one, image in images.items() if image.shape == images[number].shape}
        first, second = (
            [images.get(one, images[last]) for one in self.stacked(last)]
            for last in (number, other if other in images else number)
        )
        return first, second

    def _find(self, number: int) -> tuple[int, int, int]:
        """Place of a frame among those that decode, and start and end of its shot there; -1, 0, 0 if it does not."""
        place = int(np.searchsorted(self._numbers, number))
        if place == len(self._numbers) or self._numbers[place] != number:
            return -1, 0, 0
        shot = int(np.searchsorted(self._shots, place, side="right"))
        return place, int(self._shots[shot - 1]), int(self._shots[shot])


class Films:
    """What crops are cut from, of several sources one after the other; images of no bag or video stand alone."""

    def __init__(self, sources: Sequence[Frames], seconds: float, stack: int) -> None:
        self._sources = [_film(source, seconds, stack) or source for source in sources]
        self._ends = list(itertools.accumulate(map(len, sources)))
        self._stack = stack

    def views(self, number: int, at: float) -> Views:
        """Those of the image of that number among all sources: see `Film`, whose UserError it raises."""
        place = bisect.bisect_right(self._ends, number)
        source, index = self._sources[place], number - (self._ends[place - 1] if place else 0)
        if isinstance(source, Film):
            return source.views(index, at)
        view = self._stack * [source[index]]
        return view, view


def _film(source: Frames, seconds: float, stack: int) -> Film | None:
    if isinstance(source, SelectedFrames):
        return Film(source.recording, source.numbers, seconds, stack)
    if isinstance(source, BagFrames | VideoFrames):
        return Film(source, np.arange(len(source), dtype=np.uint32), seconds, stack)
    return None


def correlations(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pearson's correlation of the cells of thumbnails [N, 12, 16] with the next ones', [N - 1]; 0 for flat ones."""
    cells = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    cells -= cells.mean(axis=1, keepdims=True)
    cells /= np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-6)
    products: NDArray[np.float32] = np.einsum("nc,nc->n", cells[:-1], cells[1:])
    return products
