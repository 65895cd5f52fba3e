"""From a student's outputs to masks: the method, and the steps after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.background import background_mask
from dino_ros.masks.binary import largest_components
from dino_ros.masks.lost import lost_mask
from dino_ros.masks.motion import JUMP, MotionEstimator
from dino_ros.masks.normalized_cut import normalized_cut_mask
from dino_ros.masks.objects import SMALLEST, number_objects
from dino_ros.masks.parameters import METHODS, MaskParameters
from dino_ros.masks.refine import refine
from dino_ros.masks.soft import upsample

SMALL = 160
"""Pixels on the long side of the image that motion and the edges' strength are found in, at most."""
FINE = 480
"""Pixels on the long side of the image whose edges are followed, at most: larger ones are halved."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Masks:
    """What is made of one frame."""

    mask: NDArray[np.uint8]
    """[H, W]: 255 where objects are, else 0."""
    objects: NDArray[np.uint16] | None
    """[H, W]: 0 where no object is, else the object's number, which it keeps; None where it was not asked for."""


class MaskMaker:
    """Makes the masks of one camera, frame after frame; remembers the frame before. Not for several threads."""

    def __init__(self) -> None:
        self._motion = MotionEstimator()
        self._stamp = 0
        self._cut: NDArray[np.float32] | None = None
        self._soft: NDArray[np.float32] | None = None
        self._objects: NDArray[np.uint16] | None = None
        self._following = 1

    def __call__(
        self,
        seen: Outputs,
        size: tuple[int, int],
        image: NDArray[np.uint8] | None,
        stamp: int,
        parameters: MaskParameters,
        objects: bool = False,
    ) -> Masks:
        """Masks of an image of `size` (height and width) taken at `stamp` ns.

        `seen` are the student's outputs that the method needs, `parameters` resolved for the student; the image
        itself, RGB [H, W, 3], may be None where `parameters.needs_image(objects)` says so. Raises UserError for
        outputs that are not finite.
        """
        if not 0 <= stamp - self._stamp <= JUMP:
            self._cut = None
        self._stamp = stamp
        grid = self._method(seen, parameters)
        if parameters.components:
            left_out = (grid > 0.5) & ~largest_components(grid > 0.5, parameters.components)
            grid = np.where(left_out, 0, grid).astype(np.float32)
        if image is None:
            return Masks(upsample(grid, *size), None)
        fine = _shrink(image, FINE)
        small = _shrink(fine, SMALL)
        soft = cv2.resize(grid, small.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        motion = self._motion(small, stamp) if parameters.steady or objects else None
        if parameters.steady and motion is not None and self._soft is not None:
            share = parameters.steady * motion.explained
            soft = ((1 - share) * soft + share * motion.carry(self._soft)).astype(np.float32)
        self._soft = soft if parameters.steady else None
        if parameters.refine:
            soft = refine(soft, small, fine, small.shape[1] / grid.shape[1])
        mask = upsample(soft, *size)
        if not objects:
            self._objects = None
            return Masks(mask, None)
        before = None
        if self._objects is not None and motion is not None:
            before = motion.carry_labels(self._objects)
        numbers, self._following = number_objects(mask, SMALLEST * mask.size / grid.size, before, self._following)
        self._objects = cv2.resize(numbers, small.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint16)
        return Masks(mask, numbers)

    def _method(self, seen: Outputs, parameters: MaskParameters) -> NDArray[np.float32]:
        """Soft mask on the patch grid."""
        for name in METHODS[parameters.method]:
            if not np.isfinite(seen[name]).all():
                raise UserError(
                    f"The output {name} of the student is not finite (NaN or infinite): export the student with "
                    "--precision fp32."
                )
        if parameters.method == "foreground":
            return seen["foreground"]
        if parameters.method == "background":
            return background_mask(seen["features"], seen["attention"])
        if parameters.method == "normalized_cut":
            soft, self._cut = normalized_cut_mask(seen["features"], seen["attention"], self._cut)
            return soft
        if parameters.method == "lost":
            return lost_mask(seen["features"])
        return attention_mask(seen["attention"], parameters.attention_mass, parameters.attention_head).astype(
            np.float32
        )


def _shrink(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The image [H, W, 3], halved until its long side has so many pixels at most."""
    while max(image.shape[:2]) > long_side:
        height, width = image.shape[:2]
        image = resize(image, max(height // 2, 1), max(width // 2, 1))
    return image
