"""What was found out about a recording, kept between runs in one small file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

VERSION = 1
"""Of the cached arrays' meaning: raise it, and everything cached before is made again."""


class Cache:
    """Arrays by name that describe a recording, in one .npz under $XDG_CACHE_HOME/dino_train.

    They are forgotten when one of the recording's files changes its size or its time of modification.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        path = path.resolve()
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
        self._state = json.dumps([VERSION, str(path), states])
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dino_train"
        self.file = folder / f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.npz"

    def load(self, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Return the arrays of these names, or all; empty unless all are there and the recording is as it was."""
        with contextlib.suppress(Exception), np.load(self.file) as stored:  # a corrupt file raises almost anything
            if str(stored["state"]) == self._state:
                return {name: stored[name] for name in names or stored.files}
        return {}

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep these arrays beside those that are kept already. A folder that cannot be written is only warned of."""
        everything: dict[str, Any] = {**self.load(), **arrays, "state": np.array(self._state)}
        part = self.file.with_suffix(f".{os.getpid()}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.savez(file, **everything)
            part.replace(self.file)  # whoever reads meanwhile sees the old file or the new one, whole
        except OSError as error:
            log.warning("the index cannot be kept for the next run: %s", error)
            with contextlib.suppress(OSError):
                part.unlink()
