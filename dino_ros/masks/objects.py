"""Telling objects apart: the connected parts of a mask, each with a number that it keeps from frame to frame."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 1.0
"""Smallest area of an object, in patches."""
LARGEST_NUMBER = 65535
"""What a uint16 holds; numbering starts over after it."""
OVERLAP = 0.3
"""Two objects of consecutive frames are the same if their intersection over union, after motion, exceeds this."""


def number_objects(
    mask: NDArray[np.uint8],
    smallest: float,
    before: NDArray[np.uint16] | None,
    next_number: int,
    remembered: Collection[int] = (),
) -> tuple[NDArray[np.uint16], int]:
    """Number the 8-connected parts of a mask [H, W] (nonzero: object) that have at least `smallest` pixels, from 1.

    `before` has the numbers of the previous frame, moved to where its objects are now, at any size, or is None. A part
    takes the number of the object that it overlaps by more than OVERLAP, largest overlap first. Otherwise it gets a new
    number: `next_number` or the first free one after it, which is none of those that are `remembered`. Returns the
    numbers [H, W], 0 on the background, and the next new number.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    parts = 1 + np.argsort(-areas, kind="stable")[: min(np.count_nonzero(areas >= smallest), LARGEST_NUMBER)]
    rank = np.zeros(count, dtype=np.int64)  # 1 for the largest part; 0 for the background and parts that are too small
    rank[parts] = np.arange(1, len(parts) + 1)
    numbers = np.zeros(len(parts) + 1, dtype=np.uint16)
    taken = {0}
    for part, number in _matches(rank, labels, before) if before is not None else ():
        if not numbers[part] and number not in taken:
            numbers[part] = number
            taken.add(number)
    taken.update(remembered)
    for part in np.flatnonzero(numbers == 0)[1:]:
        while next_number in taken:
            next_number = next_number % LARGEST_NUMBER + 1
        numbers[part] = next_number
        taken.add(next_number)
        next_number = next_number % LARGEST_NUMBER + 1
    return numbers[rank][labels], next_number


def _matches(rank: NDArray[Any], labels: NDArray[Any], before: NDArray[np.uint16]) -> list[tuple[int, int]]:
    """Pairs of a part's rank and an earlier number that overlap enough, largest overlap first."""
    parts = rank[cv2.resize(labels, before.shape[::-1], interpolation=cv2.INTER_NEAREST)]
    known, old = np.unique(before, return_inverse=True)
    pairs = parts.ravel() * len(known) + old.ravel()
    shared = np.bincount(pairs, minlength=(rank.max() + 1) * len(known)).reshape(-1, len(known))
    overlap = shared / np.maximum(shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared, 1)
    pairings = [(overlap[i, j], int(i), int(known[j])) for i, j in np.argwhere(overlap > OVERLAP)]
    return [(part, number) for _, part, number in sorted(pairings, reverse=True) if part and number]
