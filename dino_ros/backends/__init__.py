"""Engines that run a student, one file each, behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends.onnxruntime import OnnxRuntimeBackend
from dino_ros.errors import UserError


class Backend(Protocol):
    """A student, loaded and ready."""

    description: str
    """Engine and device, for people."""

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3] of RGB pictures; returns the named outputs, each [B, ...] float32."""


BACKENDS: dict[str, Callable[[Path], Backend]] = {"onnxruntime": OnnxRuntimeBackend}
"""Engines by name, the fastest first: the order in which "auto" tries them."""


def open_backend(path: Path, name: str = "auto") -> Backend:
    """Load a student into the engine of that name, or into the first that works for "auto".

    Raises UserError for an unknown name, and when the engine cannot load the student.
    """
    if name == "auto":
        name = next(iter(BACKENDS))
    if name not in BACKENDS:
        raise UserError(f"There is no backend {name!r}: choose one of auto, {', '.join(BACKENDS)}.")
    return BACKENDS[name](path)
