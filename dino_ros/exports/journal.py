"""How far an export came: one file, replaced whole after each step, from which an interrupted export goes on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_ros.masks.maker import MaskMaker


@dataclass
class Position:
    """Where an export stands."""

    tried: int = 0
    """Chosen frames that are done, those that did not decode included."""
    written: int = 0
    """Frames that were written."""
    recording: int = -1
    """Number of the recording that `maker` saw last."""
    maker: MaskMaker = field(default_factory=MaskMaker)
    """What makes the masks of that recording."""

    def maker_for(self, recording: int) -> MaskMaker:
        """The MaskMaker of a recording: each has one of its own."""
        if recording != self.recording:
            self.recording, self.maker = recording, MaskMaker()
        return self.maker


class Journal:
    """The file that holds the position, and the settings with which the export was begun."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self.path = path
        self.settings: dict[str, object] = json.loads(json.dumps(settings))

    def read(self, out: Path) -> Position:
        """The position that was kept last, or the start if there is none yet.

        Raises UserError, naming `out`, if the export was begun with other settings or the file is damaged.
        """
        try:
            with np.load(self.path, allow_pickle=False) as file:
                content: dict[str, NDArray[Any]] = dict(file)
            state = json.loads(str(content.pop("state")))
        except FileNotFoundError:
            return Position()
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete {out}, or give another --out.") from error
        before = state["settings"]
        for name in [*self.settings, *before]:
            if before.get(name) != self.settings.get(name):
                values = (settings.get(name) for settings in (before, self.settings))
                was, now = ("left out" if value is None else value for value in values)
                raise UserError(
                    f"{out} was begun with other settings ({name} was {was}, and is {now}): give the same ones to go "
                    "on, or another --out."
                )
        return Position(state["tried"], state["written"], state["recording"], MaskMaker.recall(content))

    def keep(self, position: Position) -> None:
        """Write the position, whole or not at all."""
        state = {
            "settings": self.settings,
            "tried": position.tried,
            "written": position.written,
            "recording": position.recording,
        }
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, state=np.array(json.dumps(state)), **position.maker.memory())
