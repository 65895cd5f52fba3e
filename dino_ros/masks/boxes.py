"""Bounding boxes of numbered objects: the one definition, for messages and for labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def boxes(objects: NDArray[np.uint16]) -> dict[int, tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of each object, by its number, from numbers [H, W] (0: background)."""
    ys, xs = np.nonzero(objects)
    numbers, which = np.unique(objects[ys, xs], return_inverse=True)
    low = np.full((2, len(numbers)), max(objects.shape))
    high = np.zeros_like(low)
    for axis, places in enumerate((xs, ys)):
        np.minimum.at(low[axis], which, places)
        np.maximum.at(high[axis], which, places)
    sides = [*low, *(high - low + 1)]
    return {
        number: (left, top, width, height)
        for number, left, top, width, height in np.array([numbers, *sides]).T.tolist()
    }
