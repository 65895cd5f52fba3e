"""Squares of patches put together, so that comparing every patch with every other stays cheap on large grids."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MOST = 400
"""About the most squares on a grid."""


def square_side(height: int, width: int) -> int:
    """Side in patches of the squares on a grid of height x width patches; 1 where it has few patches."""
    return max(round(math.sqrt(height * width / MOST)), 1)


def pooled(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means [h // side * w // side, C] over squares of values [h, w, C]; leftover rows and columns are ignored."""
    height, width, channels = values.shape
    rows, columns = height // side, width // side
    whole = values[: rows * side, : columns * side].reshape(rows, side, columns, side, channels)
    means: NDArray[np.float32] = whole.mean(axis=(1, 3)).reshape(rows * columns, channels)
    return means
