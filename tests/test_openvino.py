"""OpenVINO against ONNX Runtime on the bundled student and the demo's images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.backends import Backend, open_backend
from dino_ros.backends.parity import input_batch, shipped_images
from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import find_student, read_student

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def engines() -> tuple[Backend, Backend]:
    path = find_student("table_vit_micro_8")
    return open_backend("openvino", path, largest_batch=4), open_backend("onnxruntime", path)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    info = read_student(find_student("table_vit_micro_8"))
    return input_batch(shipped_images(), info.height, info.width)


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize(
    "outputs", [["attention"], ["embedding", "features"], ["attention", "embedding", "features"]], ids=",".join
)
def test_outputs_are_those_of_onnx_runtime(
    engines: tuple[Backend, Backend], images: NDArray[np.uint8], batch: int, outputs: list[str]
) -> None:
    ours, theirs = (engine(images[:batch], outputs) for engine in engines)
    assert list(ours) == outputs
    for name in outputs:
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4 * np.abs(theirs[name]).max())


def test_results_are_the_callers(engines: tuple[Backend, Backend], images: NDArray[np.uint8]) -> None:
    engine = engines[0]
    first = engine(images[:1], ["attention"])["attention"]
    kept = first.copy()
    engine(images[1:2], ["attention"])
    np.testing.assert_array_equal(first, kept)


def test_an_fp32_student_runs_in_fp32(engines: tuple[Backend, Backend]) -> None:
    assert engines[0].description.endswith("CPU, f32")


@pytest.mark.parametrize("head", [False, True])
def test_one_model_is_compiled_for_the_masks_that_a_student_makes(student: Path, head: bool) -> None:
    """To compile a second one takes as long as the rest of a start."""
    perceiver = Perceiver.load("table_vit_micro_8" if head else student, "openvino")
    assert bool(perceiver.info.foreground_head) == head
    perceiver.warm_up()
    assert len(perceiver.backend._requests) == 1  # type: ignore[attr-defined]


def test_a_signal_after_the_last_engine_is_handled() -> None:
    """The plugin may leave the thread without a stack for signal handlers, as it did when its Core was gone."""
    script = """
import signal
from dino_ros.backends import open_backend
from dino_ros.backends.parity import input_batch, shipped_images
from dino_ros.student import find_student

engine = open_backend("openvino", find_student("table_vit_micro_8"))
engine(input_batch(shipped_images(), 240, 320)[:1], ["features"])  # a second model, and then none
del engine
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_a_missing_openvino_is_named(monkeypatch: pytest.MonkeyPatch, student: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="pip install openvino"):
        open_backend("openvino", student)
