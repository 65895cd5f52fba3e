"""Finding taught objects in an image, by its patch tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.taught.background import Background
from dino_ros.taught.looks import Look, unit

SHRINKAGE = 0.1
"""Added to the variance of tokens, relative to its mean over directions: few looks say little of most directions."""
EDGE = 0.16
"""By how much a patch may be less like a look than what proves that the object is there, and still be the object's."""
HOLD = 0.06
"""By how much less proof is enough where the object was in the previous image."""
SURENESS = 0.015
"""Of similarity: how much more of it makes the odds that the object is there e times as high."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a taught object in an image."""

    similarity: NDArray[np.float32]
    """[h, w]: the cosine of each patch token to the most similar prototype of the object."""
    soft: NDArray[np.float32]
    """[h, w], 0 to 1: how much of a patch is the object; 0 everywhere if it is not in view."""
    score: float
    """How sure it is that the object is in view, 0 to 1; if it is one half or more, the object is found."""


class Finder:
    """Finds the objects that were taught, in the images of one camera: it remembers the previous one. Not thread-safe.

    Every patch is asked two questions. Is it more like this object than like its surroundings, the other objects and
    what the camera has seen since? A linear discriminant on the tokens (regularized, in closed form) says it, and gives
    the outline. Is it like anything that was shown? That is the cosine to the nearest prototype; the discriminant alone
    would find the least unlikely patch of any image. A connected part of the outline is the object if one of its
    patches is more like the object than background ever is.
    """

    def __init__(self, looks: Mapping[str, Sequence[Look]], background: Background) -> None:
        """`looks` are those at each object, by its name: at least one object, and of each a look that shows it."""
        self.looks = looks
        self.background = background
        shown = [np.concatenate([look.inside.tokens for look in of_one if look.shows_it]) for of_one in looks.values()]
        self._prototypes = np.concatenate(shown)
        self._starts = np.cumsum([0, *map(len, shown)])[:-1]
        self._held: dict[str, NDArray[np.bool_]] = {}
        self._fit()

    def __call__(self, features: NDArray[np.float32]) -> dict[str, Found]:
        """What is found of each object in an image with these patch tokens, [h, w, C]."""
        if self.background.changed:
            self.background.changed = False
            self._fit()
        grid = features.shape[:2]
        tokens = unit(features.reshape(-1, features.shape[-1]))
        similarities = np.maximum.reduceat(tokens @ self._prototypes.T, self._starts, axis=1)
        outlines = tokens @ self._directions + self._offsets
        likeliest = outlines.argmax(axis=1)
        found = {}
        elsewhere = np.ones(len(tokens), bool)
        for number, name in enumerate(self.looks):
            needed = self.background.threshold(name)
            outline, similarity = np.clip(outlines[:, number], 0, 1), similarities[:, number]
            outline[(likeliest != number) | (similarity < needed - EDGE)] = 0
            soft, proof = self._proven(name, outline.reshape(grid), similarity.reshape(grid), needed)
            elsewhere &= (soft == 0).ravel()
            score = 1 / (1 + np.exp((needed - proof) / SURENESS))
            found[name] = Found(similarity.reshape(grid), soft, float(score))
        if elsewhere.any():
            # What looks like the object but was not proven may be it, so it says nothing of the background.
            unlike = np.where(elsewhere[:, None] & (outlines <= 0.5), similarities, -1)
            highest = unlike.max(axis=0).tolist()
            self.background.see(tokens[elsewhere], dict(zip(self.looks, highest, strict=True)))
        return found

    def _proven(
        self, name: str, outline: NDArray[np.float32], similarity: NDArray[np.float32], needed: float
    ) -> tuple[NDArray[np.float32], float]:
        """The parts of an outline [h, w] that are the object, with the patches around them, and the best proof of it.

        Parts that touch the object of the previous image have HOLD in advance.
        """
        count, parts = cv2.connectedComponents((outline > 0.5).astype(np.uint8), connectivity=8)
        in_part = parts > 0
        of_part = parts[in_part].astype(np.intp)
        proofs = np.full(count, -np.inf)
        np.maximum.at(proofs, of_part, similarity[in_part])
        held = self._held.get(name)
        if held is not None:
            proofs[np.unique(parts[held])] += HOLD
        kept = proofs[parts] >= needed
        self._held[name] = kept
        peaks = np.zeros(count, np.float32)
        np.maximum.at(peaks, of_part, outline[in_part])
        # Every part reaches 1, so that one of a single patch is not lost between the patches of a finer mask.
        peak = cv2.dilate(np.where(kept, peaks[parts], 0).astype(np.float32), np.ones((3, 3), np.uint8))
        soft = np.where(peak > 0, outline / np.maximum(peak, 0.5), 0).astype(np.float32)
        return soft, max(float(proofs.max()), float(similarity.max()) - EDGE)

    def _fit(self) -> None:
        """Solve for the discriminant of every object: 1 on its looks on average, and 0 on everything else."""
        tokens, weights, numbers = self._examples()
        mean = weights @ tokens
        centered = tokens - mean
        covariance = (centered * weights[:, None]).T @ centered
        covariance[np.diag_indices_from(covariance)] += SHRINKAGE * np.trace(covariance) / len(covariance)
        own = (numbers[:, None] == np.arange(len(self.looks))).astype(np.float32)
        directions = np.linalg.solve(covariance, (centered * weights[:, None]).T @ own)
        scores = centered @ directions
        of_own, of_others = (weights[:, None] * part for part in (own, 1 - own))
        # An image filled by an object has nothing else.
        high, low = ((scores * part).sum(axis=0) / np.maximum(part.sum(axis=0), 1e-12) for part in (of_own, of_others))
        scale = 1 / np.maximum(high - low, 1e-6)
        self._directions = (directions * scale).astype(np.float32)
        self._offsets = (-(mean @ directions + low) * scale).astype(np.float32)

    def _examples(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Tokens [n, C], their weights [n] and the number of the object that each is of; -1 for none.

        The objects weigh as much as everything else. Objects weigh the same, and looks at one; half of everything else
        is what the camera has seen, once it has seen something.
        """
        parts = []
        for number, of_one in enumerate(self.looks.values()):
            for look in of_one:
                shown = number if look.shows_it else -1
                parts += [(look.inside, shown, 1 / sum(one.shows_it == look.shows_it for one in of_one))]
                parts += [(look.outside, -1, 1 / len(of_one))]
        tokens = np.concatenate([prototypes.tokens for prototypes, _, _ in parts])
        weights = np.concatenate([prototypes.weights * weight for prototypes, _, weight in parts])
        numbers = np.concatenate([np.full(len(prototypes.tokens), number) for prototypes, number, _ in parts])
        seen = self.background.tokens
        none = numbers < 0
        weights[none] *= (0.5 if len(seen) else 1) / max(float(weights[none].sum()), 1e-12)
        weights[~none] /= float(weights[~none].sum())
        return (
            np.concatenate([tokens, seen]),
            (np.concatenate([weights, np.full(len(seen), 0.5 / max(len(seen), 1))]) / 2).astype(np.float32),
            np.concatenate([numbers, np.full(len(seen), -1)]),
        )
