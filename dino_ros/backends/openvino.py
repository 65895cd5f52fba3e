"""OpenVINO: the engine for CPUs, x86 and ARM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.student import read_student


class OpenVinoBackend:
    """Runs a student in OpenVINO on the CPU. Implements `Backend`.

    The batch stays dynamic: models of fixed shape were not faster (benchmarks/results/runtime.md), and each would hold
    its own copy of the weights. Where the attention alone is asked for, a second model is compiled, which skips the end
    of the last block.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        import openvino

        self._openvino = openvino
        self._path = path
        self._settings = settings
        self._requests: dict[bool, Any] = {}
        compiled = self._request(attention_only=False).get_compiled_model()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]}, CPU, {precision}"

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Run a batch [B, H, W, 3]; see `Backend`."""
        request = self._request(set(outputs) <= {"attention"})
        request.infer({"images": np.ascontiguousarray(images)}, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    def _request(self, attention_only: bool) -> Any:
        if attention_only not in self._requests:
            core = shared_core()
            model = core.read_model(str(self._path))
            if attention_only:
                model = self._openvino.Model([model.output("attention")], model.get_parameters())
            compiled = core.compile_model(model, "CPU", self._settings)
            self._requests[attention_only] = compiled.create_infer_request()
        return self._requests[attention_only]


@cache
def shared_core() -> Any:
    """The Core of this process, which lives as long as it does.

    The CPU plugin gives the thread that loads it a larger stack for signal handlers and takes that away when a
    Core ends (seen with 2026.4), but leaves the thread pointing to it: the next signal then crashes the process.
    """
    import openvino

    return openvino.Core()


def open_openvino(path: Path, largest_batch: int, report: Report) -> OpenVinoBackend:
    """Load a student into OpenVINO; see `open_backend`.

    An fp32 student runs in fp32. For other precisions OpenVINO picks what is fastest on this CPU: bf16 where it has
    instructions for that.
    """
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise UserError("OpenVINO is not installed: pip install openvino.") from error
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if read_student(path).precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        return OpenVinoBackend(path, settings)
    except RuntimeError as error:
        raise UserError(
            f"OpenVINO cannot load {path} ({str(error).strip().splitlines()[0]}): use another backend."
        ) from error
