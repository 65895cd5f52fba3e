"""How far what a recording shows is from all that others showed, and from what distance on that is new."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.mining.vectors import Vectors
from dino_ros.mining.whitening import Whitening

CAPACITY = 8192
"""Most tokens of the known that are kept to compare with: 12 MB of a ViT-S, and some 10 ms a frame."""
STRETCHES = 10
"""Into so many pieces a known recording is cut in time; neighboring frames are nearly the same, so whole ones are held
out."""
HELD_OUT = 5
"""Every such piece is held out, to learn how far something from the same recordings usually is."""
SHARE = 0.01
"""Of a frame's patches, the farthest, over which its distance is averaged: one or two, so that small things count."""


SHRINKAGE = 0.1
"""Of the whitening, which is by the frames that are not held out: else these were nearer than others that are new."""
FEWEST = 10
"""Frames of a known recording: one of its stretches, at least, holds one."""
WIDER = 1.2
"""By how much tokens must be farther apart each time there is no room for more."""
BLOCK = 512
"""Tokens that are compared with all at once."""


class Known:
    """Tokens that were seen: a set of which none that was added is farther from the nearest than `radius`.

    Holds at most `capacity` tokens. Until it is full it holds all and distances are exact. Then it is thinned to tokens
    that are farther apart than a distance that grows each time (Charikar et al. 1997), so that rare things stay.
    """

    def __init__(self, channels: int, capacity: int = CAPACITY) -> None:
        self._tokens = np.empty((capacity, channels), np.float32)
        self._count = 0
        self._apart = 0.0
        self.radius = 0.0
        """Most by which `distances` are too large."""

    def __len__(self) -> int:
        return self._count

    @property
    def tokens(self) -> NDArray[np.float32]:
        """[n, C]."""
        return self._tokens[: self._count]

    def add(self, tokens: NDArray[np.float32]) -> None:
        """Add tokens [n, C]."""
        waiting = tokens[self.distances(tokens) > self._apart] if self._count else tokens
        while len(waiting):
            taken = _apart(waiting, self._apart) if self._apart else waiting
            room = len(self._tokens) - self._count
            self._tokens[self._count : self._count + min(room, len(taken))] = taken[:room]
            self._count += min(room, len(taken))
            if len(taken) <= room:
                return
            self._thin()
            waiting = taken[room:]
            waiting = waiting[self.distances(waiting) > self._apart]

    def distances(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """The Euclidean distance [n] of tokens [n, C] to the nearest that was added."""
        distances: NDArray[np.float32] = _distances(tokens, self.tokens).min(axis=1)
        return distances

    def _thin(self) -> None:
        """Keep tokens that are farther apart than before: at least a quarter of the places become free."""
        self._apart = self._apart * WIDER or _typical_gap(self.tokens)
        kept = _apart(self.tokens, self._apart)
        while len(kept) > 0.75 * self._count:
            self._apart *= WIDER
            kept = _apart(self.tokens, self._apart)
        self._tokens[: len(kept)] = kept
        self._count = len(kept)
        self.radius += self._apart


@dataclass(frozen=True)
class Calibration:
    """How far frames of the known recordings are from what the rest of these shows."""

    held_out: NDArray[np.float32]
    """Distances [n] of the frames that were held out, ascending."""
    threshold: float
    """A frame that is farther is novel, and a patch, too."""

    @classmethod
    def of(cls, distances: Sequence[float], false_alarms: float) -> Calibration:
        """The threshold that a share `false_alarms` of frames like the held-out ones exceeds (Vovk et al. 2005).

        With fewer than 1 / false_alarms - 1 of them it is the highest distance, and 1 / (n + 1) exceed it.
        """
        ordered = np.sort(np.array(distances, np.float32))
        rank = min(math.ceil((len(ordered) + 1) * (1 - false_alarms)), len(ordered))
        return cls(ordered, float(ordered[max(rank, 1) - 1]))

    def chance(self, distance: float) -> float:
        """How often a frame that shows nothing new is at least that far, 0 to 1; never below 1 / (n + 1)."""
        as_far = len(self.held_out) - int(np.searchsorted(self.held_out, distance))
        return (1 + as_far) / (1 + len(self.held_out))


@dataclass(frozen=True)
class Novelty:
    """How new a frame is."""

    distance: float
    """Mean distance of its farthest patches; see SHARE."""
    patches: NDArray[np.float32]
    """[h, w]: the distance of each patch token to the nearest that is known."""


@dataclass(frozen=True)
class Familiar:
    """What recordings show: tells how new other frames are."""

    whiten: Whitening
    """By the tokens of frames that were not held out: what they have in common says nothing of what is new."""
    known: Known
    """Their tokens, whitened."""
    calibration: Calibration
    """By the frames that were held out."""

    def novelty(self, tokens: NDArray[np.float32]) -> Novelty:
        """How new a frame with patch tokens [h, w, C] of unit length is."""
        return _novelty(self.known, self.whiten(tokens))


def learn(recordings: Sequence[Vectors], false_alarms: float) -> Familiar:
    """What recordings show, and how far held-out frames of them are from the others.

    At last the held-out frames are known, too. Raises UserError if a recording has fewer than FEWEST frames.
    """
    for recording in recordings:
        if len(recording) < FEWEST:
            raise UserError(
                f"{recording.path} gives {len(recording)} frames, and {FEWEST} are needed to learn what is usual "
                "there: raise --rate, or give a longer recording to --known."
            )
    channels = recordings[0].embeddings.shape[1]
    whiten, known = Whitening.of(_frames(recordings, held_out=False), SHRINKAGE), Known(channels)
    for tokens in _frames(recordings, held_out=False):
        known.add(whiten(tokens).reshape(-1, channels))
    held_out = [_novelty(known, whiten(tokens)).distance for tokens in _frames(recordings, held_out=True)]
    for tokens in _frames(recordings, held_out=True):
        known.add(whiten(tokens).reshape(-1, channels))
    return Familiar(whiten, known, Calibration.of(held_out, false_alarms))


def _novelty(known: Known, tokens: NDArray[np.float32]) -> Novelty:
    """How far a frame with whitened patch tokens [h, w, C] is from what is known."""
    distances = known.distances(tokens.reshape(-1, tokens.shape[-1]))
    farthest = np.sort(distances)[-math.ceil(SHARE * len(distances)) :]
    return Novelty(float(farthest.mean()), distances.reshape(tokens.shape[:2]))


def _frames(recordings: Sequence[Vectors], held_out: bool) -> Iterator[NDArray[np.float32]]:
    """Yield the tokens [h, w, C] of the frames that are held out, or of the others."""
    for recording in recordings:
        for index, tokens in enumerate(recording.tokens()):
            if (index * STRETCHES // len(recording) % HELD_OUT == HELD_OUT // 2) == held_out:
                yield tokens


def _apart(tokens: NDArray[np.float32], distance: float) -> NDArray[np.float32]:
    """Those of the tokens [n, C] that are farther than `distance` from all that were kept before them."""
    kept = np.empty((0, tokens.shape[1]), np.float32)
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK]
        if len(kept):
            block = block[_distances(block, kept).min(axis=1) > distance]
        near = _distances(block, block) <= distance
        taken: list[int] = []
        for row in range(len(block)):
            if not near[row, taken].any():
                taken.append(row)
        kept = np.concatenate([kept, block[taken]])
    return kept


def _typical_gap(tokens: NDArray[np.float32]) -> float:
    """The median distance of tokens [n, C] to their nearest neighbor, by up to BLOCK of them."""
    some = np.linspace(0, len(tokens) - 1, min(BLOCK, len(tokens))).astype(int)
    distances = _distances(tokens[some], tokens)
    distances[np.arange(len(some)), some] = np.inf
    return max(float(np.median(distances.min(axis=1))), 1e-3)


def _distances(tokens: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean distances [n, m] of tokens [n, C] and [m, C]."""
    squares = (tokens**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * (tokens @ others.T)
    distances: NDArray[np.float32] = np.sqrt(np.maximum(squares, 0))
    return distances
