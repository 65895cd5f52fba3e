"""Soft masks: from a score per patch to one, and from one to yes and no."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def otsu_threshold(scores: NDArray[np.float32]) -> float:
    """The score that parts the scores into two classes of least variance within (Otsu 1979), to 1/255 of their range.

    A percent of the scores may lie outside that range, so that an outlier does not decide.
    """
    low, high = np.percentile(scores, (0.5, 99.5))
    levels = np.rint(np.clip((scores - low) * (255 / max(high - low, 1e-12)), 0, 255)).astype(np.uint8)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(low + (level + 0.5) * (high - low) / 255)


def soft_mask(scores: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Soft mask [h, w] of 0 to 1 from scores [h, w], which is one half where they are at the threshold.

    On either side it is linear, up to the mean of the scores on that side: there it is 0 or 1. It is 0 where all scores
    that are not above the threshold are at it.
    """
    above = scores > threshold
    high = scores[above].mean() - threshold if above.any() else 1.0
    low = threshold - scores[~above].mean() if not above.all() else 1.0
    difference = scores - threshold
    scaled = np.where(above, difference / max(2 * high, 1e-12), difference / (2 * low) if low > 0 else -0.5)
    return np.clip(scaled + 0.5, 0, 1).astype(np.float32)


def upsample(soft: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """A soft mask interpolated linearly to [height, width] and cut at one half: 255 above it, else 0."""
    large = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.multiply(large > 0.5, 255, dtype=np.uint8)
