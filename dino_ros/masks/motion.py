"""How the picture moved since the frame before: what carries masks and objects from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

JUMP = 1_000_000_000
"""Nanoseconds between two frames above which the second is no continuation of the first."""
UNEXPLAINED = 12
"""Grey levels by which a place may differ from where the motion says it came from, on average over SURROUNDINGS."""
SURROUNDINGS = (5, 5)
"""Pixels of the small picture."""
LEAST = 32
"""Pixels on a side that inverse search needs: on narrower pictures it crashes."""


@dataclass(frozen=True)
class Motion:
    """From the frame before to this one, on the small picture."""

    origin: NDArray[np.float32]
    """[h, w, 2]: the x and y, in pixels of the frame before, that each pixel came from."""
    explained: NDArray[np.bool_]
    """[h, w]: where the frame before, moved so, looks like this one."""

    def carry(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [h, w] of the frame before, moved to where they are now."""
        return _sample(values, self.origin, cv2.INTER_LINEAR).astype(np.float32, copy=False)

    def carry_labels(self, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Labels [h, w] of the frame before, moved to where they are now; 0 where the motion explains nothing."""
        return np.where(self.explained, _sample(labels, self.origin, cv2.INTER_NEAREST), 0).astype(np.uint16)


class MotionEstimator:
    """Follows one camera, by dense inverse search (Kroeger et al. 2016)."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._grey: NDArray[np.uint8] | None = None
        self._stamp = 0

    def __call__(self, small: NDArray[np.uint8], stamp: int) -> Motion | None:
        """Motion to this frame, RGB [h, w, 3] of `stamp` ns, from the one before.

        None for the first frame, one of another size, and after a jump in the stamps: backwards, or by more than JUMP.
        """
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        before, self._grey = self._grey, grey
        passed, self._stamp = stamp - self._stamp, stamp
        if before is None or before.shape != grey.shape or not 0 <= passed <= JUMP:
            return None
        height, width = grey.shape
        here = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
        wide, wide_before = _widen(grey), _widen(before)
        flow = self._flow.calc(wide, wide_before, np.zeros((*wide.shape, 2), np.float32))[:height, :width]
        origin = (here + flow).astype(np.float32, copy=False)
        moved = _sample(before, origin, cv2.INTER_LINEAR)
        explained = cv2.blur(cv2.absdiff(moved, grey), SURROUNDINGS) < UNEXPLAINED
        return Motion(origin, explained)


def _sample(values: NDArray[Any], origin: NDArray[np.float32], interpolation: int) -> NDArray[Any]:
    """Values [h, w] at the places `origin` [h, w, 2], x and y; beyond the edge those at the edge."""
    x, y = cv2.split(origin)
    return cv2.remap(values, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _widen(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with its last row and column repeated up to LEAST."""
    below, right = (max(LEAST - side, 0) for side in grey.shape)
    return cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
