"""Objects told apart: the connected parts of a mask, each with a number that it keeps from frame to frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 1.0
"""Area of an object at least, in patches."""
LARGEST_NUMBER = 65535
OVERLAP = 0.3
"""Intersection over union of an object and one of the frame before, moved to now, above which they are the same."""


def number_objects(
    mask: NDArray[np.uint8], smallest: float, before: NDArray[np.uint16] | None, following: int
) -> tuple[NDArray[np.uint16], int]:
    """Number the 8-connected parts of a mask [H, W] (not 0: object) of at least `smallest` pixels, from 1.

    `before` are the objects of the frame before as they lie now, at any size, or None: a part takes the number of the
    one that it overlaps with by more than OVERLAP, most overlap first, else a new one: `following`, and on from there,
    past those that are taken. Returns the numbers [H, W], 0 where no object is, and the next new number.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    parts = 1 + np.argsort(-areas, kind="stable")[: min(np.count_nonzero(areas >= smallest), LARGEST_NUMBER)]
    rank = np.zeros(count, dtype=np.int64)  # 1 for the largest part; 0 for the background and for what is too small
    rank[parts] = np.arange(1, len(parts) + 1)
    numbers = np.zeros(len(parts) + 1, dtype=np.uint16)
    taken = {0}
    for part, number in _matches(rank, labels, before) if before is not None else ():
        if not numbers[part] and number not in taken:
            numbers[part] = number
            taken.add(number)
    for part in np.flatnonzero(numbers == 0)[1:]:
        while following in taken:
            following = following % LARGEST_NUMBER + 1
        numbers[part] = following
        taken.add(following)
        following = following % LARGEST_NUMBER + 1
    return numbers[rank][labels], following


def _matches(rank: NDArray[Any], labels: NDArray[Any], before: NDArray[np.uint16]) -> list[tuple[int, int]]:
    """Pairs of a part, by its rank, and a number of the frame before that overlap enough, most overlap first."""
    parts = rank[cv2.resize(labels, before.shape[::-1], interpolation=cv2.INTER_NEAREST)]
    known, old = np.unique(before, return_inverse=True)
    pairs = parts.ravel() * len(known) + old.ravel()
    shared = np.bincount(pairs, minlength=(rank.max() + 1) * len(known)).reshape(-1, len(known))
    overlap = shared / np.maximum(shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared, 1)
    found = [(overlap[i, j], int(i), int(known[j])) for i, j in np.argwhere(overlap > OVERLAP)]
    return [(part, number) for _, part, number in sorted(found, reverse=True) if part and number]
