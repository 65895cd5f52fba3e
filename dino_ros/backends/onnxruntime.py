"""ONNX Runtime: the reference, and the engine where there is no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dino_ros.errors import UserError

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""In the order of preference."""


class OnnxRuntimeBackend:
    """Runs a student on the GPU where onnxruntime-gpu is installed, else on the CPU. Implements `Backend`."""

    def __init__(self, path: Path) -> None:
        available = onnxruntime.get_available_providers()
        try:
            self._session = onnxruntime.InferenceSession(
                path, providers=[provider for provider in PROVIDERS if provider in available]
            )
        except Exception as error:  # onnxruntime raises classes of its own binding
            raise UserError(f"ONNX Runtime cannot load {path} ({str(error).splitlines()[0]}).") from error
        device = "CUDA" if self._session.get_providers()[0].startswith("CUDA") else "CPU"
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {device}"

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3]; see `Backend`."""
        return dict(zip(outputs, self._session.run(list(outputs), {"images": images}), strict=True))
