"""Object masks from attention."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError


@dataclass(frozen=True)
class MaskParameters:
    """How a mask is made from attention. Raises UserError for values out of range."""

    keep: float = 0.6
    """Share of the attention that the mask keeps, above 0, at most 1."""
    head: int = -1
    """Attention head, counted from 0; -1 for the mean of all heads."""
    components: int = 0
    """Keep only so many of the largest 8-connected parts; 0 keeps all."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"mask_keep is {self.keep}: it must be above 0 and at most 1.")
        if self.head < -1:
            raise UserError(f"mask_head is {self.head}: it must be a head counted from 0, or -1 for the mean of all.")
        if self.components < 0:
            raise UserError(f"mask_components is {self.components}: it must be 0 (all parts) or more.")


def attention_mask(attention: NDArray[np.float32], parameters: MaskParameters) -> NDArray[np.bool_]:
    """Mask [h, w] on the patch grid from attention [heads, h, w] (not negative).

    Raises UserError if there is no such head.
    """
    heads = len(attention)
    if parameters.head >= heads:
        raise UserError(f"mask_head is {parameters.head}, but the student has the heads 0 to {heads - 1}.")
    chosen = attention.mean(axis=0) if parameters.head < 0 else attention[parameters.head]
    mask = keep_mass(chosen, parameters.keep)
    return largest_components(mask, parameters.components) if parameters.components else mask


def keep_mass(attention: NDArray[np.float32], keep: float) -> NDArray[np.bool_]:
    """The smallest set of patches that holds the share `keep` of the attention [h, w]; of equal patches the first.

    Caron et al. 2021, figure 4 and table 7 (there `keep` is 0.6). Empty where there is no attention at all. Raises
    UserError for attention that is not finite, which half precision can bring about.
    """
    values = attention.astype(np.float64).ravel()
    order = np.argsort(-values, kind="stable")
    mass = np.cumsum(values[order])
    if not np.isfinite(mass[-1]):
        raise UserError("The student's attention is not finite (NaN or infinite): export it with --precision fp32.")
    if mass[-1] == 0:
        return np.zeros(attention.shape, dtype=np.bool_)
    count = int(np.searchsorted(mass, keep * mass[-1])) + 1
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[order[:count]] = True
    return mask.reshape(attention.shape)


def largest_components(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The `count` largest 8-connected parts of a mask."""
    total, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.argsort(-areas, kind="stable")[:count]
    return np.isin(labels, kept) if total > 1 else mask


def jaccard(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape, 0 to 1; 1 where both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0


def upsample_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.uint8]:
    """Mask [height, width] of 0 and 255: the grid's mask interpolated linearly and cut at one half."""
    grid = mask.astype(np.uint8) * 255
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.threshold(smooth, 127, 255, cv2.THRESH_BINARY)[1].astype(np.uint8, copy=False)
