"""From the patch grid to the camera's resolution, along the image's edges.

The guided filter with a color guide (He, Sun and Tang 2010); its coefficients are computed on a small image and applied
at full resolution (He and Sun 2015, "Fast Guided Filter"). `cv2.ximgproc.guidedFilter` is no substitute: opencv-python
lacks it, and it has no such fast variant. The tests compare results with it where it exists; speed was not compared.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RADIUS = 1.5
"""Of the filter's window, in patches: how far from a patch an edge may be."""
LARGEST_RADIUS = 0.05
"""Of the window, at most, as a share of the image's side: larger windows lose small objects."""
COARSE_RADIUS = 4
"""Pixels to which that radius is reduced by subsampling; He and Sun subsample by a quarter of the radius."""
EPSILON = 1e-3
"""How much contrast makes an edge: the variance, of colors in 0 to 1, below which the filter smooths."""
ENOUGH = 0.5
"""Share of the soft mask's variance that colors must explain for the filter to be trusted in full."""
FLAT = 1e-4
"""Variance of a soft mask below which there is nothing to explain."""

_PER_GRAY_LEVEL = np.array([1 / 255, 1 / 255, 1 / 255, 1], np.float32)


def guided_coefficients(
    soft: NDArray[np.float32], guide: NDArray[np.uint8], radii: tuple[int, int], epsilon: float = EPSILON
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coefficients [h, w, 4] of the filter: a pixel of color (r, g, b) in 0 to 1 becomes c0 r + c1 g + c2 b + c3.

    Filters `soft`, [h, w], guided by `guide`, RGB [h, w, 3]; the window's sides are 2 * radius + 1 pixels, for the
    `radii` in y and x. Also returns how far to trust them, [h, w]: the share of the variance of `soft` that the colors
    explain around each pixel, relative to ENOUGH, at most 1.
    """
    window = (2 * radii[1] + 1, 2 * radii[0] + 1)
    colors = guide.astype(np.float32) * np.float32(1 / 255)
    mean = cv2.blur(colors, window)
    mean_soft = cv2.blur(soft, window)
    covariance = cv2.blur(colors * soft[..., None], window) - mean * mean_soft[..., None]
    variance = cv2.blur(soft * soft, window) - mean_soft * mean_soft
    planes, means = cv2.split(colors), cv2.split(mean)
    rr, rg, rb, gg, gb, bb = (
        cv2.blur(planes[i] * planes[j], window) - means[i] * means[j] + (epsilon if i == j else 0)
        for i in range(3)
        for j in range(i, 3)
    )
    # The inverse of the symmetric 3 x 3 matrix, by its cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    x, y, z = cv2.split(covariance)
    slopes = [
        (c_rr * x + c_rg * y + c_rb * z) / determinant,
        (c_rg * x + c_gg * y + c_gb * z) / determinant,
        (c_rb * x + c_gb * y + c_bb * z) / determinant,
    ]
    offset = mean_soft - sum(slope * m for slope, m in zip(slopes, means, strict=True))
    explained = cv2.blur(slopes[0] * x + slopes[1] * y + slopes[2] * z, window)
    trust = np.clip(explained / np.maximum(ENOUGH * cv2.blur(variance, window), FLAT), 0, 1)
    coefficients = cv2.blur(cv2.merge([*slopes, offset]), window).astype(np.float32, copy=False)
    return coefficients, trust


def refine(
    soft: NDArray[np.float32], small: NDArray[np.uint8], image: NDArray[np.uint8], patch: tuple[float, float]
) -> NDArray[np.float32]:
    """Soft mask [H, W] that follows the edges of an image, RGB [H, W, 3]; slightly below 0 or above 1 in places.

    `soft` is the soft mask [h, w] at the size of `small`, the same image reduced to RGB [h, w, 3]; `patch` is the
    height and width of a patch in pixels of `small`. Where colors do not tell the object from what is around it, the
    soft mask stays as it is.
    """
    height, width = small.shape[:2]
    radii = [min(RADIUS * patch[0], LARGEST_RADIUS * height), min(RADIUS * patch[1], LARGEST_RADIUS * width)]
    while max(radii) >= 2 * COARSE_RADIUS:
        half = (max(small.shape[1] // 2, 1), max(small.shape[0] // 2, 1))
        soft = cv2.resize(soft, half, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        small = cv2.resize(small, half, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        radii = [radius / 2 for radius in radii]
    coefficients, trust = guided_coefficients(soft, small, (max(round(radii[0]), 1), max(round(radii[1]), 1)))
    coefficients[..., 3] += (1 - trust) * (soft - _apply(coefficients, small))
    return _apply(coefficients, image)


def _apply(coefficients: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The filter's output [H, W] for coefficients [h, w, 4], which are interpolated, and an image, RGB [H, W, 3]."""
    *slopes, filtered = (
        cv2.resize(plane, image.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        for plane in cv2.split(coefficients * _PER_GRAY_LEVEL)
    )
    for slope, color in zip(slopes, cv2.split(image), strict=True):
        slope *= color.astype(np.float32)
        filtered += slope
    return filtered
