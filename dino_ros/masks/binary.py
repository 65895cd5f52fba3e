"""Operations on binary masks, whatever made them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.soft import upsample


def largest_components(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The `count` largest 8-connected parts of a mask [h, w]."""
    total, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.argsort(-areas, kind="stable")[:count]
    return np.isin(labels, kept) if total > 1 else mask


def jaccard(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape, 0 to 1; 1 where both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0


def upsample_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.uint8]:
    """A mask [h, w] of the patch grid as [height, width] of 0 and 255: interpolated linearly, cut at one half."""
    return upsample(mask.astype(np.float32), height, width)
