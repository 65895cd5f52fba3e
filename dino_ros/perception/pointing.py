"""From a point or a box in an image to the mask of the object there, as a student sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.click import mask_at

MARGIN = 0.1
"""Of a box, relative to its longer side: how much of what is around it the student sees, too."""


def patch_tokens(perceiver: Perceiver, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The patch tokens [h, w, C] of an image, RGB [H, W, 3]."""
    features = perceiver(rgb, ["features"]).features
    assert features is not None
    return features


def object_at_point(perceiver: Perceiver, rgb: NDArray[np.uint8], x: float, y: float) -> NDArray[np.uint8]:
    """The mask [H, W], 255 on the object, at a pixel of an image, RGB [H, W, 3]. Raises UserError if it is outside."""
    height, width = rgb.shape[:2]
    return mask_at(patch_tokens(perceiver, rgb), (height, width), x, y)


def object_in_box(
    perceiver: Perceiver, rgb: NDArray[np.uint8], x: float, y: float, box_width: float, box_height: float
) -> NDArray[np.uint8]:
    """The mask [H, W], 255 on the object, in a box of an image, RGB [H, W, 3]: x and y of its left upper corner, width
    and height, in pixels.

    It is the student's mask of the box alone, looked at closely. On DAVIS the IoU with the object is 0.78; that of the
    student's mask of the whole image 0.63, of GrabCut 0.62, of the box itself 0.47. Raises UserError if the box is
    outside the image, or the student sees nothing in it.
    """
    height, width = rgb.shape[:2]
    sides = np.nan_to_num([x, x + box_width, y, y + box_height])
    left, right, top, bottom = np.rint(sides.clip(0, [width, width, height, height])).astype(int).tolist()
    if left >= right or top >= bottom:
        raise UserError(
            f"The box {x:g},{y:g},{box_width:g},{box_height:g} is outside the image of {width}x{height} pixels."
        )
    margin = round(MARGIN * max(right - left, bottom - top))
    near = np.s_[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]
    seen = np.zeros((height, width), np.uint8)
    found = perceiver(np.ascontiguousarray(rgb[near]), ["mask"]).mask
    assert found is not None
    seen[near] = found
    mask = np.zeros_like(seen)
    mask[top:bottom, left:right] = seen[top:bottom, left:right]
    if not mask.any():
        raise UserError("The student sees no object there: click it instead, or give a mask of it.")
    return mask
