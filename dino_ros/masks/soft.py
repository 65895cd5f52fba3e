"""Soft masks: made from a score per patch, and turned into binary masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def otsu_threshold(scores: NDArray[np.float32]) -> float:
    """The threshold that splits scores [h, w] with the least variance within the two classes (Otsu 1979).

    Precise to 1/255 of their range, which leaves out one percent of the scores so that outliers do not decide.
    """
    low, high = np.percentile(scores, (0.5, 99.5))
    levels = np.rint(np.clip((scores - low) * (255 / max(high - low, 1e-12)), 0, 255)).astype(np.uint8)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(low + (level + 0.5) * (high - low) / 255)


def soft_mask(scores: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Soft mask [h, w] in 0 to 1 from scores [h, w]: one half at the threshold.

    On either side it is linear up to the mean of the scores on that side, where it reaches 0 or 1. If no score is below
    the threshold, scores at the threshold become 0.
    """
    above = scores > threshold
    high = scores[above].mean() - threshold if above.any() else 1.0
    low = threshold - scores[~above].mean() if not above.all() else 1.0
    difference = scores - threshold
    scaled = np.where(above, difference / max(2 * high, 1e-12), difference / (2 * low) if low > 0 else -0.5)
    return np.clip(scaled + 0.5, 0, 1).astype(np.float32)


def upsample(soft: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """A soft mask [h, w] interpolated linearly to [height, width] and cut at one half: 255 above it, else 0."""
    large = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.multiply(large > 0.5, 255, dtype=np.uint8)
