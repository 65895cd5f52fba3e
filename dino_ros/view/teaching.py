"""Objects that are taught on the page of a recording: pointed out in a frame, then named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import unusable_file
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import object_in_box
from dino_ros.taught.background import Background
from dino_ros.taught.click import mask_at
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look, look_at
from dino_ros.taught.object_files import TaughtObjects
from dino_ros.taught.pictures import draw_look
from dino_ros.view.scene import Place, PointedOut


class Teaching:
    """A folder of taught objects, what was pointed out last, and what finds the objects. Not thread-safe.

    A node may teach objects of the same folder meanwhile, so that it is read before each change.
    """

    def __init__(self, perceiver: Perceiver, folder: Path, check_name: Callable[[str], None]) -> None:
        """`check_name` raises UserError for a name that no object can have."""
        self._perceiver = perceiver
        self._folder = folder
        self._check_name = check_name
        self._objects = self._read()
        self._finder: Finder | None = None
        self._number = 0
        self._shown: tuple[Look, str] | None = None
        """The look with that number, and how it was pointed out."""

    @property
    def looks(self) -> Mapping[str, tuple[Look, ...]]:
        """The looks at each object, by its name. Any thread may read it."""
        return self._objects.looks

    @property
    def refused(self) -> tuple[str, ...]:
        """A sentence for each object of the folder that cannot be used."""
        return self._objects.refused

    def finder(self) -> Finder | None:
        """What finds the objects; None if there are none. What it saw of the background outlives a change."""
        if not self.looks:
            return None
        if self._finder is None:
            self._finder = Finder(self.looks, Background(self._perceiver.info.embed_dim))
        elif self._finder.looks is not self.looks:
            self._finder = Finder(self.looks, self._finder.background)
        return self._finder

    def point_out(self, rgb: NDArray[np.uint8], features: NDArray[np.float32], place: Place) -> PointedOut:
        """Take what is there in a frame, RGB [H, W, 3] with patch tokens [h, w, C], for an object that `teach` names.

        Of a box it is the student's mask, which takes a run of the engine. Raises UserError if nothing is there.
        """
        height, width = rgb.shape[:2]
        x, y, box_width, box_height = place.pixels(height, width)
        if place.is_box:
            mask, how = object_in_box(self._perceiver, rgb, x, y, box_width, box_height), "box"
        else:
            mask, how = mask_at(features, (height, width), x, y), "click"
        look = look_at(features, rgb, mask)
        self._number += 1
        self._shown = look, how
        return PointedOut(self._number, draw_look(look))

    def teach(self, number: int, name: str, shows_it: bool) -> None:
        """Save what was pointed out under that number as a look at an object, or at what it is not.

        Raises UserError if something else was pointed out since, for a name that no object can have, and if it cannot
        be saved.
        """
        self._check_name(name)
        if self._shown is None or number != self._number:
            raise UserError(f"Something else was pointed out meanwhile: show {name} again.")
        look, how = self._shown
        self._change(lambda objects: objects.add(name, dataclasses.replace(look, shows_it=shows_it), how))
        self._shown = None

    def undo(self, name: str) -> None:
        """Take back the last look at an object. Raises UserError if there is none, or its files cannot be changed."""
        self._change(lambda objects: objects.undo(name))

    def forget(self, name: str) -> None:
        """Remove an object. Raises UserError if there is none, or its files cannot be changed."""
        self._change(lambda objects: objects.forget(name))

    def _change(self, change: Callable[[TaughtObjects], None]) -> None:
        try:
            self._objects = self._read()
            change(self._objects)
        except OSError as error:
            raise UserError(unusable_file(error)) from error

    def _read(self) -> TaughtObjects:
        return TaughtObjects.load(self._folder, self._perceiver.info, self._perceiver.path)
