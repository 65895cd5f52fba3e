"""From a student's outputs to masks: the method, then the steps that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from dino_ros.masks.smoothed_attention import smoothed_attention_mask
from dino_ros.masks.soft import upsample

SMALL = 160
"""Most pixels on the long side of the image in which motion and edges are measured."""
FINE = 480
"""Most pixels on the long side of the image whose edges are followed: larger images are halved."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Masks:
    """The masks of one frame."""

    mask: NDArray[np.uint8]
    """[H, W]: 255 on objects, else 0."""
    objects: NDArray[np.uint16] | None
    """[H, W]: 0 on the background, else the object's number, the same in every frame; None if not requested."""


class MaskMaker:
    """Makes the masks of one camera, frame after frame, and remembers the previous frame. Not thread-safe."""

    def __init__(self) -> None:
        self._motion = MotionEstimator()
        self._stamp = 0
        self._cut: NDArray[np.float32] | None = None
        self._soft: NDArray[np.float32] | None = None
        self._objects: NDArray[np.uint16] | None = None
        self._next_number = 1

    def memory(self) -> dict[str, NDArray[Any]]:
        """What it remembers of the frames so far, as arrays by name, for a file; see `recall`."""
        counts = np.array([self._stamp, self._motion.stamp, self._next_number])
        arrays = {"cut": self._cut, "soft": self._soft, "objects": self._objects, "gray": self._motion.gray}
        return {"counts": counts, **{name: array for name, array in arrays.items() if array is not None}}

    @classmethod
    def recall(cls, memory: Mapping[str, NDArray[Any]]) -> MaskMaker:
        """A maker that goes on where the one whose `memory` this is stood."""
        maker = cls()
        maker._stamp, maker._motion.stamp, maker._next_number = memory["counts"].tolist()
        maker._cut, maker._soft, maker._objects = (memory.get(name) for name in ("cut", "soft", "objects"))
        maker._motion.gray = memory.get("gray")
        return maker

    def __call__(
        self,
        outputs: Outputs,
        size: tuple[int, int],
        image: NDArray[np.uint8] | None,
        stamp: int,
        parameters: MaskParameters,
        objects: bool = False,
    ) -> Masks:
        """The masks of an image of `size` (height and width), taken at `stamp` ns.

        `outputs` holds the student's outputs that the method needs, and `parameters` is resolved for the student. The
        image itself, RGB [H, W, 3], may be None if `parameters.needs_image(objects)` is False. Objects are numbered
        only if `objects` is True. Raises UserError for outputs that are not finite.
        """
        if not 0 <= stamp - self._stamp <= JUMP:
            self._cut = None
        self._stamp = stamp
        grid = self._grid_mask(outputs, parameters)
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
            soft = refine(soft, small, fine, (small.shape[0] / grid.shape[0], small.shape[1] / grid.shape[1]))
        mask = upsample(soft, *size)
        if not objects:
            self._objects = None
            return Masks(mask, None)
        before = None
        if self._objects is not None and motion is not None:
            before = motion.carry_labels(self._objects)
        numbers, self._next_number = number_objects(mask, SMALLEST * mask.size / grid.size, before, self._next_number)
        self._objects = cv2.resize(numbers, small.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint16)
        return Masks(mask, numbers)

    def _grid_mask(self, outputs: Outputs, parameters: MaskParameters) -> NDArray[np.float32]:
        """Soft mask [h, w] on the patch grid, by the chosen method."""
        for name in METHODS[parameters.method]:
            if not np.isfinite(outputs[name]).all():
                raise UserError(
                    f"The student's output {name} is not finite (NaN or infinite): export the student with "
                    "--precision fp32."
                )
        if parameters.method == "foreground":
            return outputs["foreground"]
        if parameters.method == "smoothed_attention":
            return smoothed_attention_mask(outputs["features"], outputs["attention"])
        if parameters.method == "background":
            return background_mask(outputs["features"], outputs["attention"])
        if parameters.method == "normalized_cut":
            soft, self._cut = normalized_cut_mask(outputs["features"], outputs["attention"], self._cut)
            return soft
        if parameters.method == "lost":
            return lost_mask(outputs["features"])
        return attention_mask(outputs["attention"], parameters.attention_mass, parameters.attention_head).astype(
            np.float32
        )


def _shrink(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The image [H, W, 3], halved until its long side has at most `long_side` pixels."""
    while max(image.shape[:2]) > long_side:
        height, width = image.shape[:2]
        image = resize(image, max(height // 2, 1), max(width // 2, 1))
    return image
