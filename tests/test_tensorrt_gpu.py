"""TensorRT on an NVIDIA GPU: `pytest -m gpu` on a machine that has one."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dino_ros.backends import open_backend
from dino_ros.backends.cuda_device import find_device
from dino_ros.backends.parity import compare, gate, input_batch, shipped_images
from dino_ros.backends.tensorrt import TensorRtBackend
from dino_ros.backends.tensorrt_build import TITLES
from dino_ros.errors import UserError
from dino_ros.files import cache_folder
from dino_ros.student import find_student, read_student

try:
    GPU = find_device().name
except UserError:
    GPU = ""
OUTPUTS = ["features", "attention", "embedding"]
LARGEST = 4

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no NVIDIA GPU")]


@pytest.fixture(scope="module", params=list(TITLES))
def variant(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{TITLES[request.param]} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    info = read_student(find_student("table_vit_micro_8"))
    return input_batch(shipped_images(), info.height, info.width)


@pytest.fixture(scope="module")
def heard() -> list[str]:
    return []


@pytest.fixture(scope="module")
def backend(variant: str, heard: list[str]) -> TensorRtBackend:
    heard.clear()
    opened = open_backend(variant, find_student("table_vit_micro_8"), LARGEST, heard.append)
    assert isinstance(opened, TensorRtBackend)
    return opened


def test_the_engine_is_built_with_progress_and_kept(backend: TensorRtBackend, heard: list[str], variant: str) -> None:
    assert any(sentence.endswith("100 %") for sentence in heard)
    assert list(cache_folder("engines").glob(f"*-{variant}-*.engine"))
    again: list[str] = []
    assert (
        open_backend(variant, find_student("table_vit_micro_8"), LARGEST, again.append).description
        == backend.description
    )
    assert again == []
    assert GPU in backend.description


def test_its_kernels_are_replayed_as_a_cuda_graph(backend: TensorRtBackend, heard: list[str]) -> None:
    assert not [sentence for sentence in heard if "without a CUDA graph" in sentence]


def test_it_passes_the_gate(backend: TensorRtBackend) -> None:
    assert gate(find_student("table_vit_micro_8"), backend, shipped_images()).cosine > 0.999


@pytest.mark.parametrize("batch", range(1, LARGEST + 1))
def test_every_batch_size_agrees_with_onnx_runtime(backend: TensorRtBackend, images: np.ndarray, batch: int) -> None:
    first = images[:batch]
    theirs = open_backend("onnxruntime", find_student("table_vit_micro_8"))(first, OUTPUTS)
    for _ in range(2):
        ours = backend(first, OUTPUTS)
        for name in OUTPUTS:
            assert ours[name].shape == theirs[name].shape
            assert np.abs(ours[name] - theirs[name]).max() < 0.02 * np.abs(theirs[name]).max()


def test_batch_sizes_may_alternate(backend: TensorRtBackend, images: np.ndarray) -> None:
    alone = [backend(image[None], ["features"])["features"] for image in images[:LARGEST]]
    together = backend(images[:LARGEST], ["features"])["features"]
    after = backend(images[:1], ["features"])["features"]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=0.02 * np.abs(together).max())
    np.testing.assert_array_equal(after, alone[0])


def test_an_fp16_student_agrees(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from benchmarks.students import random_student

    info = random_student(tmp_path / "fp16.onnx", "vit_ti_16", precision="fp16")
    batch = input_batch(shipped_images(), info.height, info.width)
    engine = open_backend(variant, tmp_path / "fp16.onnx", 1)
    assert compare(engine, open_backend("onnxruntime", tmp_path / "fp16.onnx"), batch).cosine > 0.999
