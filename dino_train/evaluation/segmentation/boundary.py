"""How well a mask's boundary matches the true one: the boundary measure F of the DAVIS benchmark.

Perazzi et al. 2016, section 4, with the conventions of davis2017-evaluation (`metrics.py`, `f_measure`).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

CORNER = np.ones((2, 2), dtype=np.uint8)
"""A pixel with its neighbors to the right, below and diagonally below."""


def boundary_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float = 0.008) -> float:
    """F measure, 0 to 1, of the boundary of a mask [H, W] against that of the true one, both bool.

    Precision is the share of the mask's boundary pixels that are close to a true boundary pixel, recall the share of
    the true ones that are close to the mask's; F is their harmonic mean. Close means within `tolerance` times the
    image's diagonal, rounded up to whole pixels. F is 1 where neither mask has a boundary (it is empty or fills the
    image), 0 where only one has.
    """
    outline, true_outline = boundary(mask), boundary(truth)
    count, true_count = np.count_nonzero(outline), np.count_nonzero(true_outline)
    if not count or not true_count:
        return float(count == true_count)
    disc = _disc(math.ceil(tolerance * math.hypot(*mask.shape)))
    precision = np.count_nonzero(outline & (cv2.dilate(true_outline, disc) > 0)) / count
    recall = np.count_nonzero(true_outline & (cv2.dilate(outline, disc) > 0)) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Boundary [H, W] of 0 and 1: the pixels that differ from the one to the right, below or diagonally below."""
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, CORNER, anchor=(0, 0))
    return outline.astype(np.uint8, copy=False)


def _disc(radius: int) -> NDArray[np.uint8]:
    """[2 r + 1, 2 r + 1] of 0 and 1: the pixels whose distance from the middle is at most `radius`."""
    squares = np.arange(-radius, radius + 1) ** 2
    return (squares[:, None] + squares <= radius**2).astype(np.uint8)
