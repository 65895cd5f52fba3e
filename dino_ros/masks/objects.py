"""Objects told apart: the connected parts of a mask, each with a number that it keeps from frame to frame."""

from __future__ import annotations

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

    `before` are the objects of the frame before as they lie now, [H, W], or None: a part takes the number of the one
    that it overlaps with by more than OVERLAP, most overlap first, else a new one: `following`, and on from there.
    Returns the numbers [H, W], 0 where no object is, and the next new number.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    areas = statistics[:, cv2.CC_STAT_AREA].tolist()
    parts = [part for part in range(1, count) if areas[part] >= smallest]
    numbers = np.zeros(count, dtype=np.uint16)
    for part, number in _matches(labels.astype(np.uint16, copy=False), areas, before) if before is not None else ():
        if part in parts and not numbers[part] and number not in numbers:
            numbers[part] = number
    for part in sorted(parts, key=lambda part: -areas[part]):
        if not numbers[part]:
            numbers[part] = following
            following = following % LARGEST_NUMBER + 1
    return numbers[labels], following


def _matches(labels: NDArray[np.uint16], areas: list[int], before: NDArray[np.uint16]) -> list[tuple[int, int]]:
    """Pairs of a part and a number of the frame before that overlap enough, most overlap first."""
    both = (labels > 0) & (before > 0)
    pairs, counts = np.unique(np.stack([labels[both], before[both]]), axis=1, return_counts=True)
    numbers, sizes = np.unique(before, return_counts=True)
    size = dict(zip(numbers.tolist(), sizes.tolist(), strict=True))
    overlaps = [
        (count / (areas[part] + size[number] - count), part, number)
        for (part, number), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    ]
    return [(part, number) for overlap, part, number in sorted(overlaps, reverse=True) if overlap > OVERLAP]
