"""When two images of a camera are near-duplicates: by thumbnails, which noise and compression leave alike."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR_DUPLICATE_THRESHOLD = 4.0
"""Gray levels by which a frame must differ from the last kept frame, else it is its near-duplicate. Just above sensor
noise: with noise of 10 gray levels, frames of a scene at rest differ by 3 at 320x240."""
THUMBNAIL = (16, 12)
"""Width and height of a thumbnail in cells. In a VGA image a cell is the mean of 1600 pixels: noise averages out."""


def difference(thumbnail: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Difference of two thumbnails in the cell where it is largest, in gray levels."""
    return int(cv2.norm(thumbnail, other, cv2.NORM_INF))


def thumbnail_of_gray(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Thumbnail [12, 16] of a gray image [H, W] uint8: the means of its cells."""
    return cv2.resize(gray, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
