"""How the image moved since the previous frame, to carry masks and objects along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.images.stamps import SECOND

JUMP = SECOND
"""Nanoseconds between two frames beyond which the second does not continue the first."""
UNEXPLAINED = 12
"""Gray levels by which a pixel may differ, on average over SURROUNDINGS, from where the motion says it came from."""
SURROUNDINGS = (5, 5)
"""Width and height in pixels of the small image."""
LEAST = 32
"""Fewest pixels on a side for dense inverse search: on narrower images it crashes."""


@dataclass(frozen=True)
class Motion:
    """Motion from the previous frame to this one, on the small image."""

    origin: NDArray[np.float32]
    """[h, w, 2]: the x and y, in pixels of the previous frame, that each pixel came from."""
    explained: NDArray[np.bool_]
    """[h, w]: where the previous frame, moved accordingly, looks like this one."""

    def carry(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values [h, w] of the previous frame, moved to where they are now."""
        return move(values, self.origin).astype(np.float32, copy=False)

    def carry_labels(self, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Labels [h, w] of the previous frame, moved to where they are now; 0 where it is not explained."""
        return np.where(self.explained, move(labels, self.origin, cv2.INTER_NEAREST), 0).astype(np.uint16)


class MotionEstimator:
    """Follows the images of one camera."""

    def __init__(self) -> None:
        self.gray: NDArray[np.uint8] | None = None
        """The previous frame [h, w]."""
        self.stamp = 0
        """When that was taken, in nanoseconds."""

    def __call__(self, small: NDArray[np.uint8], stamp: int) -> Motion | None:
        """Motion from the previous frame to this one, RGB [h, w, 3] taken at `stamp` ns.

        None for the first frame, for a frame of another size, and after a jump of the stamps, backwards or by more than
        JUMP.
        """
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        before, self.gray = self.gray, gray
        passed, self.stamp = stamp - self.stamp, stamp
        if before is None or before.shape != gray.shape or not 0 <= passed <= JUMP:
            return None
        origin = find_origin(gray, before, cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        unlike = cv2.blur(cv2.absdiff(move(before, origin), gray), SURROUNDINGS)
        return Motion(origin, unlike < UNEXPLAINED)


def find_origin(gray: NDArray[np.uint8], before: NDArray[np.uint8], preset: int) -> NDArray[np.float32]:
    """Where each pixel of a gray image [h, w] was in the previous one: x and y, [h, w, 2].

    By dense inverse search (Kroeger et al. 2016); `preset` is one of OpenCV's DISOPTICAL_FLOW_PRESET.
    """
    height, width = gray.shape
    wide, wide_before = _widen(gray), _widen(before)
    flow = np.zeros((*wide.shape, 2), np.float32)
    flow = cv2.DISOpticalFlow.create(preset).calc(wide, wide_before, flow)[:height, :width]
    return (_pixels(height, width) + flow).astype(np.float32, copy=False)


@lru_cache(maxsize=4)
def _pixels(height: int, width: int) -> NDArray[np.float32]:
    """Each pixel's own x and y, [h, w, 2]."""
    return np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))


def move(values: NDArray[Any], origin: NDArray[np.float32], interpolation: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """Values [h, w] of the previous frame, moved to where they are now; the edge is repeated beyond the edge."""
    no_second_map: Any = None
    return cv2.remap(values, origin, no_second_map, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _widen(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with its last row and column repeated until each side has LEAST pixels."""
    below, right = (max(LEAST - side, 0) for side in gray.shape)
    if not below and not right:
        return gray
    return cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
