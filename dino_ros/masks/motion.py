"""How the image moved since the frame before: what carries masks and objects from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

JUMP = 1_000_000_000
"""Nanoseconds between two frames above which the second is no continuation of the first."""
UNEXPLAINED = 12
"""Gray levels by which a place may differ from where the motion says it came from, on average over SURROUNDINGS."""
SURROUNDINGS = (5, 5)
"""Pixels of the small image."""
LEAST = 32
"""Pixels on a side that inverse search needs: on narrower images it crashes."""


@dataclass(frozen=True)
class Motion:
    """From the frame before to this one, on the small image."""

    origin: NDArray[np.float32]
    """[h, w, 2]: the x and y, in pixels of the frame before, that each pixel came from."""
    explained: NDArray[np.bool_]
    """[h, w]: where the frame before, moved so, looks like this one."""

    def carry(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [h, w] of the frame before, moved to where they are now."""
        return move(values, self.origin).astype(np.float32, copy=False)

    def carry_labels(self, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Labels [h, w] of the frame before, moved to where they are now; 0 where the motion explains nothing."""
        return np.where(self.explained, move(labels, self.origin, cv2.INTER_NEAREST), 0).astype(np.uint16)


class MotionEstimator:
    """Follows one camera."""

    def __init__(self) -> None:
        self._gray: NDArray[np.uint8] | None = None
        self._stamp = 0

    def __call__(self, small: NDArray[np.uint8], stamp: int) -> Motion | None:
        """Motion to this frame, RGB [h, w, 3] of `stamp` ns, from the one before.

        None for the first frame, one of another size, and after a jump in the stamps: backwards, or by more than JUMP.
        """
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        before, self._gray = self._gray, gray
        passed, self._stamp = stamp - self._stamp, stamp
        if before is None or before.shape != gray.shape or not 0 <= passed <= JUMP:
            return None
        origin = find_origin(gray, before, cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        unlike = cv2.blur(cv2.absdiff(move(before, origin), gray), SURROUNDINGS)
        return Motion(origin, unlike < UNEXPLAINED)


def find_origin(gray: NDArray[np.uint8], before: NDArray[np.uint8], preset: int) -> NDArray[np.float32]:
    """Where the pixels of a gray image [h, w] were in the one before, x and y, [h, w, 2].

    By dense inverse search (Kroeger et al. 2016); `preset` is one of OpenCV's DISOPTICAL_FLOW_PRESET.
    """
    height, width = gray.shape
    wide, wide_before = _widen(gray), _widen(before)
    search = cv2.DISOpticalFlow.create(preset)
    flow = search.calc(wide, wide_before, np.zeros((*wide.shape, 2), np.float32))[:height, :width]
    here = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    return (here + flow).astype(np.float32, copy=False)


def move(values: NDArray[Any], origin: NDArray[np.float32], interpolation: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """Values [h, w] of the frame before where they are now; beyond the edge those at the edge."""
    x, y = cv2.split(origin)
    return cv2.remap(values, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _widen(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with its last row and column repeated up to LEAST."""
    below, right = (max(LEAST - side, 0) for side in gray.shape)
    return cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
