"""The picture for people: the camera's image with the attention as heat and the mask as an outline."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

OUTLINE = (0, 255, 255)
"""RGB of the mask's outline, a color that the heat map does not contain."""
HEAT = 0.6
"""Opacity of the heat where the attention is highest."""
OPACITY = np.round(HEAT * np.arange(256)).astype(np.uint8)
"""Opacity of the heat, 0 to 255, by its strength, 0 to 255."""


def overlay(rgb: NDArray[np.uint8], mask: NDArray[np.uint8], attention: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw attention and mask over a copy of an image; returns RGB [H, W, 3] uint8.

    Takes the image, RGB [H, W, 3], the mask [H, W] of 0 and 255, and the attention [heads, h, w]. Heat shows by how
    much the mean over the heads exceeds the image's average, relative to its maximum, so that evenly spread attention
    does not veil the image. Computed in 8 bits, which is several times as fast as in floats.
    """
    height, width = mask.shape
    mean = attention.mean(axis=0)
    above = np.clip(mean - mean.mean(), 0, None)
    grid = np.round(above * (255 / max(float(mean.max()), 1e-12))).astype(np.uint8)
    strength = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    heat = cv2.cvtColor(cv2.applyColorMap(strength, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = cv2.cvtColor(cv2.LUT(strength, OPACITY), cv2.COLOR_GRAY2RGB)
    blended = cv2.add(cv2.multiply(rgb, 255 - opacity, scale=1 / 255), cv2.multiply(heat, opacity, scale=1 / 255))
    drawn = blended.astype(np.uint8, copy=False)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, OUTLINE, thickness=max(1, round(height / 240)))
    return drawn
