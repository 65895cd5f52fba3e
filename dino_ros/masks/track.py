"""The steps that follow a soft mask of the patch grid, frame after frame: steadied, refined, enlarged, numbered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.images.encodings import resize
from dino_ros.masks.memory import Memory
from dino_ros.masks.motion import Motion
from dino_ros.masks.objects import SMALLEST, number_objects
from dino_ros.masks.parameters import MaskParameters
from dino_ros.masks.refine import refine
from dino_ros.masks.soft import upsample

SMALL = 160
"""Most pixels on the long side of the image in which motion and edges are measured."""
FINE = 480
"""Most pixels on the long side of the image whose edges are followed: larger images are halved."""


@dataclass(frozen=True)
class Masks:
    """The masks of one frame."""

    mask: NDArray[np.uint8]
    """[H, W]: 255 on objects, else 0."""
    objects: NDArray[np.uint16] | None
    """[H, W]: 0 on the background, else the object's number, the same in every frame; None if not requested."""


@dataclass(frozen=True, eq=False)
class View:
    """A frame as the steps need it; shared by all masks of the frame."""

    size: tuple[int, int]
    """Height and width of the frame, in pixels."""
    fine: NDArray[np.uint8] | None
    """RGB, at most FINE pixels long; None where the steps need no image."""
    small: NDArray[np.uint8] | None
    """RGB, at most SMALL pixels long; None where `fine` is."""
    motion: Motion | None
    """Since the previous frame; None if it is not needed, or if this frame does not continue that one."""
    stamp: int
    """When it was taken, in nanoseconds."""
    features: NDArray[np.float32] | None
    """Patch tokens [h, w, C], by which objects are found again; None where none are."""


class Track:
    """One mask through the frames of a camera; remembers the previous frame."""

    def __init__(self, smallest: float = SMALLEST) -> None:
        """`smallest` is the least area of an object, in patches."""
        self._smallest = smallest
        self.soft: NDArray[np.float32] | None = None
        """[h, w] at the size of `View.small`; None where nothing is carried on."""
        self.objects: NDArray[np.uint16] | None = None
        """Numbers [h, w] of the previous frame, at the size of `View.small`."""
        self.next_number = 1
        self.memory = Memory()

    def __call__(self, grid: NDArray[np.float32], view: View, parameters: MaskParameters, objects: bool) -> Masks:
        """The masks that a soft mask [h, w] of the patch grid becomes; objects are numbered only if that is True."""
        if view.small is None or view.fine is None:
            return Masks(upsample(grid, *view.size), None)
        self.memory.move_on(view.stamp, parameters.remember)
        if not grid.any() and (self.soft is None or parameters.steady * self.soft.max() <= 0.5):
            self.soft = self.objects = None  # what is not there costs nothing
            return Masks(np.zeros(view.size, np.uint8), np.zeros(view.size, np.uint16) if objects else None)
        small = view.small
        soft = cv2.resize(grid, small.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        if parameters.steady and view.motion is not None and self.soft is not None:
            share = np.float32(parameters.steady) * view.motion.explained
            soft = soft + share * (view.motion.carry(self.soft) - soft)
        self.soft = soft if parameters.steady else None
        if parameters.refine:
            soft = refine(soft, small, view.fine, (small.shape[0] / grid.shape[0], small.shape[1] / grid.shape[1]))
        mask = upsample(soft, *view.size)
        if not objects:
            self.objects = None
            return Masks(mask, None)
        before = None
        if self.objects is not None and view.motion is not None:
            before = view.motion.carry_labels(self.objects)
        smallest, remembered = self._smallest * mask.size / grid.size, self.memory.numbers.tolist()
        numbers, self.next_number = number_objects(mask, smallest, before, self.next_number, remembered)
        self.objects = cv2.resize(numbers, small.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint16)
        if parameters.remember and view.features is not None:
            for new, old in self.memory.see(self.objects, view.features, small).items():
                numbers[numbers == new] = self.objects[self.objects == new] = old
        return Masks(mask, numbers)


def shrink(image: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The image [H, W, 3], halved until its long side has at most `long_side` pixels."""
    while max(image.shape[:2]) > long_side:
        height, width = image.shape[:2]
        image = resize(image, max(height // 2, 1), max(width // 2, 1))
    return image
