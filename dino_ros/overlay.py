"""The picture a person wants to look at: the camera's, with the attention's heat and the mask's outline."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

OUTLINE = (255, 214, 10)
"""RGB of the mask's outline."""
HEAT = 0.55
"""Opacity of the heat where attention is highest."""


def overlay(rgb: NDArray[np.uint8], mask: NDArray[np.uint8], attention: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw on a copy of the picture.

    Takes the picture RGB [H, W, 3], the mask [H, W] of 0 and 255, and attention [heads, h, w], whose mean over the
    heads is shown as heat (relative to its own highest value). Returns RGB [H, W, 3] uint8.
    """
    height, width = mask.shape
    mean = attention.mean(axis=0)
    strength = cv2.resize(mean / max(float(mean.max()), 1e-12), (width, height), interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = (HEAT * np.sqrt(strength))[:, :, None]
    drawn = np.ascontiguousarray((rgb + opacity * (heat.astype(np.float32) - rgb)).astype(np.uint8))
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, OUTLINE, thickness=max(1, round(height / 240)), lineType=cv2.LINE_AA)
    return drawn
