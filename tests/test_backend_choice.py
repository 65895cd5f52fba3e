"""Which engine is chosen, and why the others are not."""

from pathlib import Path

import numpy as np
import pytest
from wrong_backends import Wrong

from dino_ros import backends
from dino_ros.backends import Backend, Report
from dino_ros.backends.choice import choose_backend
from dino_ros.backends.onnxruntime import open_cpu
from dino_ros.errors import UserError

ORDER = ["tensorrt", "tensorrt_rtx", "onnxruntime_cuda", "openvino", "onnxruntime"]


def open_missing(path: Path, largest_batch: int, report: Report) -> Backend:
    raise UserError("It is not installed: install it.")


def open_wrong(path: Path, largest_batch: int, report: Report) -> Backend:
    report(f"Building for {largest_batch}.")
    return Wrong(open_cpu(path, 1, report), lambda name, values: values[..., ::-1], "wrong engine")


def open_right(path: Path, largest_batch: int, report: Report) -> Backend:
    return Wrong(open_cpu(path, 1, report), lambda name, values: values, "right engine")


@pytest.fixture
def path(student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return student


def offer(monkeypatch: pytest.MonkeyPatch, **openers: str) -> None:
    """Make these engines and the reference the only ones."""
    table = {name: (__name__, opener) for name, opener in openers.items()}
    monkeypatch.setattr(backends, "BACKENDS", {**table, "onnxruntime": backends.BACKENDS["onnxruntime"]})
    monkeypatch.setattr("dino_ros.backends.choice.BACKENDS", backends.BACKENDS)


def test_the_order_is_from_fast_to_slow() -> None:
    assert list(backends.BACKENDS) == ORDER


def test_a_wrong_engine_is_passed_over_with_the_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, a="open_missing", b="open_wrong", c="open_right", d="open_missing")
    heard: list[str] = []
    choice = choose_backend(path, "auto", 4, heard.append)
    assert (choice.name, list(choice.passed_over), heard) == ("c", ["a", "b"], ["Building for 4."])
    assert str(choice) == "c (right engine)"
    assert choice.passed_over["a"] == "It is not installed: install it."
    assert "cosine of patch tokens " in choice.passed_over["b"]


def test_the_reference_remains_when_all_others_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, a="open_wrong", b="open_missing")
    choice = choose_backend(path)
    assert (choice.name, list(choice.passed_over)) == ("onnxruntime", ["a", "b"])
    images = np.zeros((1, 32, 48, 3), np.uint8)
    assert choice.backend(images, ["embedding"])["embedding"].shape == (1, 3)


def test_an_engine_that_is_named_is_not_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, a="open_missing", b="open_wrong", c="open_right")
    with pytest.raises(UserError, match="It is not installed"):
        choose_backend(path, "a")
    with pytest.raises(UserError, match="wrong engine"):
        choose_backend(path, "b")
    assert choose_backend(path, "c").passed_over == {}
    with pytest.raises(UserError, match=r"'d': .*auto, a, b, c, onnxruntime"):
        choose_backend(path, "d")


def test_a_student_that_nothing_loads_raises(tmp_path: Path) -> None:
    (tmp_path / "s.onnx").write_text("no student")
    with pytest.raises(UserError, match=r"s\.onnx"):
        choose_backend(tmp_path / "s.onnx")
