"""The TensorRT backend on a simulated GPU: memory, streams, graphs, engine cache and parity gate."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.runtime")

from simulated_gpu import SimulatedCuda, SimulatedEngine, SimulatedRtxEngine, simulated_variant
from wrong_backends import Wrong

from dino_ros.backends import cuda_device, open_backend, tensorrt
from dino_ros.backends.parity import gate
from dino_ros.backends.tensorrt import TensorRtBackend
from dino_ros.backends.tensorrt_build import BuildProgress
from dino_ros.errors import UserError
from dino_ros.files import cache_folder

OUTPUTS = ["features", "attention", "embedding"]
Heard = list[str]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    simulated = SimulatedCuda()
    monkeypatch.setattr(cuda_device, "load_runtime", lambda: simulated)
    return simulated


def make(engine: SimulatedEngine, largest: int, heard: Heard) -> TensorRtBackend:
    variant = simulated_variant("tensorrt", lambda data: engine)
    return TensorRtBackend(variant, engine, largest, "simulated", heard.append)


def images(batch: int) -> Any:
    return np.random.default_rng(batch).integers(0, 256, (batch, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("capturable", [True, False])
def test_every_batch_size_returns_what_the_engine_computes(
    student: Path, cuda: SimulatedCuda, capturable: bool
) -> None:
    reference = open_backend("onnxruntime", student)
    heard: Heard = []
    engine = SimulatedEngine(cuda, reference, 3, capturable)
    backend = make(engine, 3, heard)
    enqueued_while_loading = engine.enqueued
    answers = []
    for batch in (2, 1, 3, 2):
        answer = backend(images(batch), OUTPUTS)
        answers.append((answer, {name: values.copy() for name, values in answer.items()}))
        for name, values in reference(images(batch), OUTPUTS).items():
            np.testing.assert_array_equal(answer[name], values)
    for answer, copy in answers:  # no later call wrote into an earlier answer
        for name in OUTPUTS:
            np.testing.assert_array_equal(answer[name], copy[name])
    assert list(backend(images(1), ["attention"])) == ["attention"]
    if capturable:
        assert (cuda.graph_launches, engine.enqueued, heard) == (5, enqueued_while_loading, [])
    else:
        assert (cuda.graph_launches, engine.enqueued) == (0, enqueued_while_loading + 5)
        assert [sentence.split(",")[0] for sentence in heard] == [
            "Simulated tensorrt 10.3.0 runs this student without a CUDA graph"
        ] * 3


def test_tensorrt_rtx_captures_its_graphs_itself(student: Path, cuda: SimulatedCuda) -> None:
    engine = SimulatedRtxEngine(cuda, open_backend("onnxruntime", student), 2)
    backend = make(engine, 2, [])
    backend(images(2), OUTPUTS)
    assert vars(engine.config) == {
        "cuda_graph_strategy": "whole graph",
        "dynamic_shapes_kernel_specialization_strategy": "eager",
    }
    assert not cuda.graphs


def test_an_engine_that_is_dropped_frees_its_memory(student: Path, cuda: SimulatedCuda) -> None:
    gc.disable()  # freed at once, not when the garbage collector runs
    try:
        backend = make(SimulatedEngine(cuda, open_backend("onnxruntime", student), 2), 2, [])
        assert len(cuda.memory) == 8  # four tensors, on host and device
        del backend
        assert not cuda.memory
    finally:
        gc.enable()


def test_what_cannot_run_is_named(student: Path, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = open_backend("onnxruntime", student)
    backend = make(SimulatedEngine(cuda, reference, 2), 2, [])
    with pytest.raises(UserError, match="built for batches of up to 2 images, not 3"):
        backend(images(3), OUTPUTS)
    with pytest.raises(UserError, match="cannot run the engine"):  # built for smaller batches
        make(SimulatedEngine(cuda, reference, 1), 2, [])
    full = cuda_device.load_runtime().cudaError_t.cudaErrorMemoryAllocation
    monkeypatch.setattr(SimulatedCuda, "do_cudaMalloc", lambda self, size: (full, None))
    with pytest.raises(UserError, match=r"cudaMalloc failed \(out of memory\)"):
        make(SimulatedEngine(cuda, reference, 2), 2, [])


def opener(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[bytes], SimulatedEngine | None], builds: list[str]
) -> Callable[[Path], tuple[TensorRtBackend, Heard]]:
    """open_tensorrt, with only the GPU and the builder replaced."""

    def build(variant: Any, path: Path, info: Any, largest: int, capability: str, report: Any) -> bytes:
        builds.append(capability)
        return f"engine {len(builds)}".encode()

    monkeypatch.setattr(tensorrt, "require", lambda name: None)
    monkeypatch.setattr(tensorrt, "load_variant", lambda name: simulated_variant(name, load))
    monkeypatch.setattr(tensorrt, "build_engine", build)

    def open_it(path: Path) -> tuple[TensorRtBackend, Heard]:
        heard: Heard = []
        return tensorrt.open_tensorrt(path, 1, heard.append), heard

    return open_it


def test_each_build_is_compared_once(
    student: Path, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = open_backend("onnxruntime", student)
    wrong = Wrong(reference, lambda name, values: -values)
    builds: list[str] = []
    open_it = opener(
        monkeypatch, lambda data: SimulatedEngine(cuda, wrong if data == b"engine 1" else reference, 1), builds
    )
    first, heard = open_it(student)
    assert (builds, heard) == (["8.7"], [])
    assert first.description.startswith(
        "Simulated tensorrt 10.3.0, Simulated GPU, compute capability 8.7, CUDA 12.6, fp32, build "
    )
    with pytest.raises(UserError, match=r"Simulated tensorrt 10\.3\.0.*cosine"):
        gate(student, first)
    again, _ = open_it(student)
    assert (again.description, builds) == (first.description, ["8.7"])
    calls = wrong.calls
    with pytest.raises(UserError, match=r"Simulated tensorrt 10\.3\.0.*cosine"):  # refused without being run again
        gate(student, again)
    assert wrong.calls == calls
    for file in cache_folder("engines").glob("*.engine"):
        file.unlink()
    rebuilt, _ = open_it(student)
    assert builds == ["8.7"] * 2
    assert gate(student, rebuilt).cosine > 0.999


def test_an_engine_that_does_not_load_is_rebuilt_once(
    student: Path, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = open_backend("onnxruntime", student)
    builds: list[str] = []
    good = {b"engine 1"}
    open_it = opener(monkeypatch, lambda data: SimulatedEngine(cuda, reference, 1) if data in good else None, builds)
    open_it(student)
    good = {b"engine 2"}  # an update of the driver, say
    _, heard = open_it(student)
    assert len(builds) == 2
    assert len(heard) == 1
    assert "out of luck" in heard[0]
    good = set()
    with pytest.raises(UserError, match="out of luck"):
        open_it(student)
    assert len(builds) == 3


def test_progress_follows_nested_phases_and_never_falls() -> None:
    progress = BuildProgress()
    assert progress.start("build", None, 4) == 0
    assert progress.start("graph", "build", 10) == 0
    assert progress.step("graph", 4) == pytest.approx(0.125)
    assert progress.start("tactics", "graph", 2) == pytest.approx(0.125)
    assert progress.step("tactics", 0) == pytest.approx(0.1375)
    assert progress.finish("tactics") == pytest.approx(0.1375)
    assert progress.finish("graph") == pytest.approx(0.1375)
    assert progress.step("build", 0) == pytest.approx(0.25)
    assert progress.step("unknown", 3) == pytest.approx(0.25)
    assert progress.finish("build") == 1


@pytest.mark.parametrize(
    ("name", "missing"), [("tensorrt", "TensorRT is not"), ("tensorrt_rtx", "TensorRT-RTX is not")]
)
def test_what_is_not_installed_is_named(
    student: Path, name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{missing} installed"):
        open_backend(name, student)


def test_a_machine_without_gpu_says_so(student: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    try:
        cuda_device.find_device()
    except UserError:
        with pytest.raises(UserError, match="no CUDA device"):
            open_backend("tensorrt_rtx", student)
    else:
        pytest.skip("this machine has an NVIDIA GPU")
