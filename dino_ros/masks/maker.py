"""From a student's outputs to masks: the method, then the steps that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.background import background_mask
from dino_ros.masks.binary import largest_components
from dino_ros.masks.lost import lost_mask
from dino_ros.masks.memory import Memory
from dino_ros.masks.motion import JUMP, MotionEstimator
from dino_ros.masks.normalized_cut import normalized_cut_mask
from dino_ros.masks.parameters import METHODS, MaskParameters
from dino_ros.masks.smoothed_attention import smoothed_attention_mask
from dino_ros.masks.track import FINE, SMALL, Masks, Track, View, shrink

Outputs = Mapping[str, NDArray[np.float32]]

SMALLEST_NAMED = 0.05
"""Smallest area of a part of a named mask, in patches: what was found may be one patch, and shrinks when refined."""


class MaskMaker:
    """Makes the masks of one camera, frame after frame, and remembers the previous frame. Not thread-safe."""

    def __init__(self) -> None:
        self._motion = MotionEstimator()
        self._stamp = 0
        self._cut: NDArray[np.float32] | None = None
        self._track = Track()
        self._named: dict[str, Track] = {}

    def memory(self) -> dict[str, NDArray[Any]]:
        """What it remembers of the frames so far, as arrays by name, for a file; named masks left out. See `recall`."""
        counts = np.array([self._stamp, self._motion.stamp, self._track.next_number])
        arrays = {
            "cut": self._cut,
            "soft": self._track.soft,
            "objects": self._track.objects,
            "gray": self._motion.gray,
        }
        arrays.update(self._track.memory.arrays())
        return {"counts": counts, **{name: array for name, array in arrays.items() if array is not None}}

    @classmethod
    def recall(cls, memory: Mapping[str, NDArray[Any]]) -> MaskMaker:
        """A maker that goes on where the one whose `memory` this is stood."""
        maker = cls()
        maker._stamp, maker._motion.stamp, maker._track.next_number = memory["counts"].tolist()
        maker._cut = memory.get("cut")
        maker._track.soft, maker._track.objects = memory.get("soft"), memory.get("objects")
        maker._motion.gray = memory.get("gray")
        maker._track.memory = Memory.recall(memory)
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
        """The masks of an image: `see`, then `make`."""
        view = self.see(size, image, stamp, parameters, objects, outputs.get("features"))
        return self.make(outputs, view, parameters, objects)

    def see(
        self,
        size: tuple[int, int],
        image: NDArray[np.uint8] | None,
        stamp: int,
        parameters: MaskParameters,
        objects: bool = False,
        features: NDArray[np.float32] | None = None,
    ) -> View:
        """What all masks of a frame share: of an image of `size` (height and width), taken at `stamp` ns.

        The image itself, RGB [H, W, 3], may be None if `parameters.needs_image(objects)` is False. `features` are its
        patch tokens [h, w, C]; without them objects that come back get new numbers.
        """
        if image is None:
            return View(size, None, None, None, stamp, features)
        fine = shrink(image, FINE)
        small = shrink(fine, SMALL)
        motion = self._motion(small, stamp) if parameters.steady or objects else None
        return View(size, fine, small, motion, stamp, features)

    def make(self, outputs: Outputs, view: View, parameters: MaskParameters, objects: bool = False) -> Masks:
        """The masks of a frame, by the method of `parameters`, which are resolved for the student.

        `outputs` holds the student's outputs that the method needs. Objects are numbered only if `objects` is True.
        Raises UserError for outputs that are not finite.
        """
        if not 0 <= view.stamp - self._stamp <= JUMP:
            self._cut = None
        self._stamp = view.stamp
        grid = self._grid_mask(outputs, parameters)
        if parameters.components:
            left_out = (grid > 0.5) & ~largest_components(grid > 0.5, parameters.components)
            grid = np.where(left_out, 0, grid).astype(np.float32)
        return self._track(grid, view, parameters, objects)

    def make_named(
        self,
        soft: Mapping[str, NDArray[np.float32]],
        view: View,
        parameters: MaskParameters,
        objects: bool = False,
    ) -> dict[str, Masks]:
        """The masks that soft masks [h, w] of the patch grid become by the same steps; each name is followed apart."""
        self._named = {name: self._named.get(name) or Track(SMALLEST_NAMED) for name in soft}
        return {name: track(soft[name], view, parameters, objects) for name, track in self._named.items()}

    def forget(self) -> None:
        """Forget what objects look like: another student makes the tokens from now on."""
        for track in (self._track, *self._named.values()):
            track.memory = Memory()

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
