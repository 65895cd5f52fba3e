"""The boundary measure pixel by pixel, and masks to try it on."""

import math

import pytest

pytest.importorskip("scipy")

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray


def slow_boundary(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pixels that differ from a neighbor to the right, below or diagonally; there is none beyond the border."""
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        for other in ((y, x + 1), (y + 1, x), (y + 1, x + 1))
        if other[0] < height and other[1] < width and mask[other] != mask[y, x]
    ]


def slow_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float = 0.008) -> float:
    """Precision, recall and F by comparing each boundary pixel with each of the other mask."""
    ours, theirs = set(slow_boundary(mask)), set(slow_boundary(truth))
    radius = math.ceil(tolerance * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))

    def near(these: set[tuple[int, int]], those: set[tuple[int, int]]) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in those) for y, x in these]
        return sum(hits) / len(hits)

    if not ours and not theirs:
        return 1.0
    precision = near(ours, theirs) if ours else 1.0
    recall = near(theirs, ours) if theirs else 1.0
    if not theirs:
        precision = 0.0
    if not ours:
        recall = 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blob(rng: np.random.Generator, shape: tuple[int, int], smooth: float) -> NDArray[np.bool_]:
    """A random mask of smooth parts, some of which touch the border."""
    mask: NDArray[np.bool_] = scipy.ndimage.gaussian_filter(rng.normal(size=shape), smooth) > 0
    return mask
