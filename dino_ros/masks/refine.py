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
COARSE_RADIUS = 4
"""Pixels to which that radius is reduced by subsampling; He and Sun subsample by a quarter of the radius."""
EPSILON = 1e-3
"""How much contrast makes an edge: the variance, of colors in 0 to 1, below which the filter smooths."""


def guided_coefficients(
    soft: NDArray[np.float32], guide: NDArray[np.uint8], radius: int, epsilon: float = EPSILON
) -> NDArray[np.float32]:
    """Coefficients [h, w, 4] of the filter: a pixel of color (r, g, b) in 0 to 1 becomes c0 r + c1 g + c2 b + c3.

    Filters `soft`, [h, w], guided by `guide`, RGB [h, w, 3]; the window's side is 2 * radius + 1 pixels.
    """
    window = (2 * radius + 1, 2 * radius + 1)
    colors = guide.astype(np.float32) * np.float32(1 / 255)
    mean = cv2.blur(colors, window)
    mean_soft = cv2.blur(soft, window)
    covariance = cv2.blur(colors * soft[..., None], window) - mean * mean_soft[..., None]
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
    return cv2.blur(cv2.merge([*slopes, offset]), window).astype(np.float32, copy=False)


def refine(
    soft: NDArray[np.float32], small: NDArray[np.uint8], image: NDArray[np.uint8], patch: float
) -> NDArray[np.float32]:
    """Soft mask [H, W] that follows the edges of an image, RGB [H, W, 3]; slightly below 0 or above 1 in places.

    `soft` is the soft mask [h, w] at the size of `small`, the same image reduced to RGB [h, w, 3]; `patch` is the side
    of a patch in pixels of `small`.
    """
    radius = RADIUS * patch
    while radius >= 2 * COARSE_RADIUS:
        half = (max(small.shape[1] // 2, 1), max(small.shape[0] // 2, 1))
        soft = cv2.resize(soft, half, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        small = cv2.resize(small, half, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        radius /= 2
    coefficients = guided_coefficients(soft, small, max(round(radius), 1))
    height, width = image.shape[:2]
    slopes = cv2.resize(coefficients, (width, height), interpolation=cv2.INTER_LINEAR)
    with_one = cv2.merge([image, np.full((height, width), 255, np.uint8)])
    weighted = cv2.multiply(slopes, with_one, scale=1 / 255, dtype=cv2.CV_32F)
    return cv2.transform(weighted, np.ones((1, 4), np.float32)).astype(np.float32, copy=False)
