"""ONNX Runtime: on the CPU the reference and the last resort; on a GPU through CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError


class OnnxRuntimeBackend:
    """Runs a student in an ONNX Runtime session. Implements `Backend`."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session = session
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {device}"

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3]; see `Backend`."""
        return dict(zip(outputs, self._session.run(list(outputs), {"images": images}), strict=True))


def open_cpu(path: Path, largest_batch: int, report: Report) -> OnnxRuntimeBackend:
    """Load a student on the CPU; see `open_backend`."""
    return OnnxRuntimeBackend(_session(path, "CPUExecutionProvider"), "CPU")


def open_cuda(path: Path, largest_batch: int, report: Report) -> OnnxRuntimeBackend:
    """Load a student on an NVIDIA GPU; see `open_backend`."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError("ONNX Runtime is installed without CUDA: pip install onnxruntime-gpu.")
    session = _session(path, "CUDAExecutionProvider")
    if "CUDAExecutionProvider" not in session.get_providers():  # it silently falls back to the CPU
        raise UserError("ONNX Runtime finds no CUDA device on this machine: check the driver and the CUDA libraries.")
    return OnnxRuntimeBackend(session, "CUDA")


def _session(path: Path, provider: str) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, providers=[provider])
    except Exception as error:  # onnxruntime raises classes private to its binding
        raise UserError(f"ONNX Runtime cannot load {path} ({str(error).splitlines()[0]}): export it again.") from error
