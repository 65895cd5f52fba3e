"""Engines that run a student, one file each, behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError


class Backend(Protocol):
    """A student, loaded and ready to run. Only one thread at a time may call it."""

    description: str
    """Engine, version, device and precision, readable. Anything that may change the engine's results is part of it."""

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3] of RGB images; returns the named outputs, each [B, ...] float32.

        The arrays belong to the caller: later calls do not write into them.
        """


Report = Callable[[str], None]
"""Receives a sentence about each slow step of loading or building an engine, for log and diagnostics."""

BACKENDS = {
    "tensorrt": ("dino_ros.backends.tensorrt", "open_tensorrt"),
    "tensorrt_rtx": ("dino_ros.backends.tensorrt", "open_tensorrt_rtx"),
    "onnxruntime_cuda": ("dino_ros.backends.onnxruntime", "open_cuda"),
    "openvino": ("dino_ros.backends.openvino", "open_openvino"),
    "onnxruntime": ("dino_ros.backends.onnxruntime", "open_cpu"),
}
"""Engines by name, in the order in which "auto" tries them: module and function that open each."""
REFERENCE = "onnxruntime"
"""The engine that the others are compared with; the last that "auto" tries."""


def open_backend(name: str, path: Path, largest_batch: int = 1, report: Report = lambda sentence: None) -> Backend:
    """Load a student into the named engine, for batches of 1 to `largest_batch` images.

    Raises UserError for an unknown name, for an engine that is not installed or finds no device on this machine, and
    when the engine cannot load the student.
    """
    if name not in BACKENDS:
        raise UserError(f"There is no backend {name!r}: choose one of auto, {', '.join(BACKENDS)}.")
    module, function = BACKENDS[name]
    backend: Backend = getattr(import_module(module), function)(path, largest_batch, report)
    return backend
