"""OpenVINO: the engine for CPUs, x86 and ARM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.student import read_student


class OpenVinoBackend:
    """Runs a student in OpenVINO on the CPU. Implements `Backend`.

    The batch stays dynamic: models of fixed shape were not faster (docs/runtime.md) and each would hold the weights
    again.
    """

    def __init__(self, compiled: Any, version: str) -> None:
        self._request = compiled.create_infer_request()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.description = f"OpenVINO {version}, CPU, {precision}"

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3]; see `Backend`."""
        self._request.infer({"images": np.ascontiguousarray(images)}, share_inputs=True)
        return {name: self._request.get_tensor(name).data.copy() for name in outputs}


def open_openvino(path: Path, largest_batch: int, report: Report) -> OpenVinoBackend:
    """Load a student into OpenVINO; see `open_backend`.

    A student of fp32 is computed in fp32. For the others OpenVINO takes what is fastest here, bf16 where the CPU has
    instructions for it.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError("OpenVINO is not installed: pip install openvino.") from error
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if read_student(path).precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot load {path} ({str(error).strip().splitlines()[0]}).") from error
    return OpenVinoBackend(compiled, openvino.__version__.split("-")[0])
