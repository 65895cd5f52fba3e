"""The parity gate, with engines that are wrong on purpose."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from students import changed, write_student
from wrong_backends import Array, Wrong

from dino_ros.backends import Backend, open_backend
from dino_ros.backends.parity import compare, gate, input_batch, shipped_images
from dino_ros.errors import UserError
from dino_ros.files import cache_folder, file_sha256
from dino_ros.masks.attention import attention_mask
from dino_ros.student import find_student, read_student

NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def reference(student: Path) -> Backend:
    return open_backend("onnxruntime", student)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def noisy(scale: float) -> Callable[[str, Array], Array]:
    return lambda name, values: (values + NOISE.normal(0, scale * values.std(), values.shape)).astype(np.float32)


WRONG: dict[str, tuple[Callable[[str, Array], Array], str]] = {
    "noise": (noisy(0.5), r"cosine of patch tokens 0\.[0-8]\d+, mask IoU 0\.\d+"),
    "features are noise": (
        lambda name, values: noisy(0.5)(name, values) if name == "features" else values,
        r"cosine of patch tokens 0\.[0-8]\d+, mask IoU 1\.000",
    ),
    "not a number": (lambda name, values: values * np.float32("nan"), "cosine of patch tokens nan, mask IoU 0.000"),
    "one patch is not a number": (
        lambda name, values: np.where(np.arange(values.size).reshape(values.shape) == 5, np.float32("nan"), values),
        "cosine of patch tokens nan, mask IoU 0.000",
    ),
    "heads are upside down": (
        lambda name, values: values[:, :, ::-1] if name == "attention" else values,
        r"cosine of patch tokens 1\.0000, mask IoU 0\.[0-8]",
    ),
    "heads attend to nothing": (
        lambda name, values: values * 0 if name == "attention" else values,
        r"cosine of patch tokens 1\.0000, mask IoU 0\.",
    ),
    "features are zero": (
        lambda name, values: values * 0 if name == "features" else values,
        r"cosine of patch tokens 0\.0000",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_engine_is_refused_with_the_numbers(student: Path, reference: Backend, kind: str) -> None:
    change, numbers = WRONG[kind]
    with pytest.raises(UserError, match=rf"^wrong .*{re.escape(student.name)} \({numbers}"):
        gate(student, Wrong(reference, change))


def test_the_bundled_student_passes_in_fp16_and_not_with_noise() -> None:
    path = find_student("table_vit_micro_8")
    reference = open_backend("onnxruntime", path)
    half = Wrong(reference, lambda name, values: values.astype(np.float16).astype(np.float32), "rounded to fp16")
    assert gate(path, half).mask_iou > 0.98
    with pytest.raises(UserError, match=r"^noisy .*table_vit_micro_8\.onnx"):
        gate(path, Wrong(reference, noisy(0.3), "noisy"))


def test_a_wrong_foreground_head_is_refused_although_all_else_is_right() -> None:
    path = find_student("table_vit_micro_8")
    assert read_student(path).foreground_head
    reference = open_backend("onnxruntime", path)
    for number, change in enumerate((lambda values: 1 - values, lambda values: values * np.float32("nan"))):

        def spoil(name: str, values: Array, change: Callable[[Array], Array] = change) -> Array:
            return change(values) if name == "foreground" else values

        with pytest.raises(UserError, match=r"cosine of patch tokens 1\.0000, mask IoU 0\.[0-8]"):
            gate(path, Wrong(reference, spoil, f"upside down {number}"))


def test_the_numbers_are_those_of_the_formulas(student: Path, reference: Backend) -> None:
    info = read_student(student)
    batch = input_batch(shipped_images(), info.height, info.width)
    assert len(batch) >= 4
    other = Wrong(reference, noisy(0.1))
    kept: list[dict[str, Array]] = []

    def keep(images: np.ndarray, outputs: list[str]) -> dict[str, Array]:
        kept.append(other(images, outputs))
        return kept[-1]

    result = compare(keep, reference, batch)  # type: ignore[arg-type]
    cosines, ious = [], []
    for image, ours in zip(batch, kept, strict=True):
        theirs = reference(image[None], ["features", "attention"])
        patches = [outputs["features"].reshape(-1, info.embed_dim) for outputs in (ours, theirs)]
        for a, b in zip(*patches, strict=True):
            cosines.append(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
        a, b = (attention_mask(outputs["attention"][0]) for outputs in (ours, theirs))
        ious.append((a & b).sum() / (a | b).sum())
    assert result.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert result.mask_iou == pytest.approx(np.mean(ious))


def test_a_result_is_remembered_for_engine_and_student(student: Path, reference: Backend, tmp_path: Path) -> None:
    right = Wrong(reference, lambda name, values: values, "engine A")
    result = gate(student, right)
    calls = right.calls
    assert gate(student, right) == result
    assert right.calls == calls
    other = Wrong(reference, noisy(0.5), "engine B")
    for _ in range(2):  # remembered, and still refused
        with pytest.raises(UserError, match=r"^engine B "):
            gate(student, other)
    assert other.calls == calls
    other_student = tmp_path / "other.onnx"
    write_student(other_student, changed(license="MIT"))
    with pytest.raises(UserError, match=r"^engine A .*other\.onnx"):
        gate(other_student, Wrong(reference, noisy(0.5), "engine A"))
    assert gate(student, right, [np.zeros((100, 100, 3), np.uint8)]).cosine == pytest.approx(1)
    assert right.calls == calls + 1  # images of the caller's own are always compared


@pytest.mark.parametrize(
    "damage", ['{"engine A": {"cosine": 1', "[]", '{"engine A": {"cosine": 1}}', '{"engine A": 3}']
)
def test_a_damaged_cache_is_replaced(student: Path, reference: Backend, damage: str) -> None:
    file = cache_folder("parity") / f"{file_sha256(student)}.json"
    file.parent.mkdir(parents=True)
    file.write_text(damage)
    engine = Wrong(reference, lambda name, values: values, "engine A")
    assert gate(student, engine).cosine == pytest.approx(1)
    assert engine.calls
    assert json.loads(file.read_text())["engine A"]["cosine"] == pytest.approx(1)


def test_without_a_cache_engines_are_compared_at_every_start(
    student: Path, reference: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    engine = Wrong(reference, lambda name, values: values, "engine A")
    gate(student, engine)
    calls = engine.calls
    gate(student, engine)
    assert engine.calls == 2 * calls
