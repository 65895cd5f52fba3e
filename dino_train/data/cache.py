"""A cache file with the index and the thumbnails of a recording."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.files import cache_folder, replacing

log = logging.getLogger(__name__)

VERSION = 5
"""Of the cached arrays' format: raising it discards everything cached before."""


class Cache:
    """Named arrays that describe a recording, in one .npz in the user's cache.

    They are discarded when one of the recording's files changes its size or its time of modification.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        path = path.resolve()
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
        self._state = json.dumps([VERSION, str(path), states])
        digest = hashlib.sha256(str(path).encode()).hexdigest()
        self.file = cache_folder("recordings") / f"{path.name}-{digest[:16]}.npz"

    def load(self, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Return the arrays of these names (default: all); empty if one is missing or the recording has changed."""
        with contextlib.suppress(Exception), np.load(self.file) as stored:  # a corrupt file raises almost anything
            if str(stored["state"]) == self._state:
                return {name: stored[name] for name in names or stored.files}
        return {}

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep more arrays. Only warns where the cache cannot be written."""
        everything: dict[str, Any] = {**self.load(), **arrays, "state": np.array(self._state)}
        try:
            with replacing(self.file) as temporary:
                np.savez(temporary, **everything)
        except OSError as error:
            log.warning("the index of %s cannot be kept for the next run: %s", self.file.stem.rpartition("-")[0], error)
