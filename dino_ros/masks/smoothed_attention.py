"""Attention, smoothed over patches that look alike: objects are what attracts it as a whole.

The CLS token attends to a few patches of an object, and to a few of anywhere. The mean attention of all patches like a
patch says more about it than its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.background import unit
from dino_ros.masks.pooling import pooled, square_side
from dino_ros.masks.soft import otsu_threshold, soft_mask

CLIP = 95
"""Percentile of the attention at which it is cut off, so that a few patches do not decide."""
APART = 0.4
"""Cosine below which two patches have nothing to do with each other."""


def smoothed_attention_mask(features: NDArray[np.float32], attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft mask [h, w] from features [h, w, C] and attention [heads, h, w].

    A patch's score is the mean attention of the squares of patches that are like it, weighted by the square of how far
    the cosine exceeds APART.
    """
    grid = features.shape[:2]
    side = square_side(*grid)
    tokens = unit(features).reshape(grid[0] * grid[1], -1)
    squares = tokens if side == 1 else unit(pooled(tokens.reshape(features.shape), side))
    looked_at = attention.mean(axis=0)
    clipped = np.minimum(looked_at, np.percentile(looked_at, CLIP)).astype(np.float32, copy=False)
    weights = tokens @ squares.T
    weights -= np.float32(APART)
    np.maximum(weights, 0, out=weights)
    weights *= weights
    means = pooled(np.dstack([clipped, np.ones_like(clipped)]), side)
    attracted, total = (weights @ means).T
    scores = np.where(total > 0, attracted / np.maximum(total, np.float32(1e-12)), clipped.ravel()).reshape(grid)
    return soft_mask(scores, otsu_threshold(scores))
