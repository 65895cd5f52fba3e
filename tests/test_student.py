"""The student file: what is read, and what is refused with which sentence."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import numpy as np
import onnx
from onnx import GraphProto, TensorProto
from onnx.helper import make_node, make_tensor, make_tensor_value_info
from students import INFO, changed, write_student

from dino_ros.errors import UserError
from dino_ros.student import DEFAULT_STUDENT, MODELS, find_student, read_student


def test_description_survives_the_file(student: Path) -> None:
    assert read_student(student) == INFO
    assert read_student(student).grid == (4, 6)


def test_a_path_is_found_before_a_name(student: Path) -> None:
    assert find_student(str(student)) == student


def test_unknown_name_lists_the_bundled_ones() -> None:
    with pytest.raises(UserError, match=r"no student 'nothing'.*bundled one \(.*table_vit_micro_8"):
        find_student("nothing")


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_bundled_students_are_valid(path: Path) -> None:
    info = read_student(path)
    assert info.height % info.patch_size == 0
    assert info.weights["sha256"]
    assert info.foreground_head
    assert info.good_for
    assert "/" not in info.weights["recipe"], "no folders of the machine where it was trained"
    card = path.with_suffix(".md").read_text()
    assert f"{info.height}x{info.width}" in card
    assert info.precision in card


def test_the_default_student_is_bundled() -> None:
    assert find_student("").stem == DEFAULT_STUDENT


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("", "make one with `dino-train export`"),
        ("{broken", "damaged"),
        ("[]", "damaged"),
        (changed(format_version=99).to_json(), "student format 99"),
        (json.dumps({"format_version": 1, "height": 32}), "lacks architecture"),
        (changed(patch_size=0).to_json(), "impossible patch_size 0"),
        (changed(patch_size="8", mean=None).to_json(), "impossible patch_size '8', mean None"),
        (changed(good_for=3).to_json(), "impossible good_for 3"),
        (changed(format_version="1").to_json(), "format '1'"),
        (changed(heads=5).to_json(), "attention of .* is .*described: export the student again"),
        (changed(height=64).to_json(), "images of .* is .*described"),
        (changed(embed_dim=4).to_json(), "features of .* is .*described"),
    ],
)
def test_what_is_not_a_student_is_refused(tmp_path: Path, description: str, sentence: str) -> None:
    path = tmp_path / "bad.onnx"
    write_student(path, description=description)
    with pytest.raises(UserError, match=sentence) as caught:
        read_student(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda graph: graph.output.pop(), "no input or output 'embedding'"),
        (lambda graph: graph.input.append(make_tensor_value_info("more", TensorProto.FLOAT, [1])), "not images alone"),
        (lambda graph: set_batch(graph, 1), "batches of 1 only"),
        (lambda graph: answer_double(graph), r"embedding of .* is tensor\(double\)"),
        (lambda graph: allocate(graph, 2**38), r"cannot see an image with .* GB of memory \(.*1099511627776"),
    ],
)
def test_a_graph_off_the_contract_is_refused(
    student: Path, tmp_path: Path, change: Callable[[GraphProto], object], sentence: str
) -> None:
    model = onnx.load(student)
    change(model.graph)
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(UserError, match=sentence):
        read_student(tmp_path / "bad.onnx")


def set_batch(graph: GraphProto, size: int) -> None:
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = size


def allocate(graph: GraphProto, count: int) -> None:
    """Compute an output from so many float32."""
    graph.initializer.append(make_tensor("count", TensorProto.INT64, [1], [count]))
    graph.node[-1].output[0] = "small"
    graph.node.append(make_node("ConstantOfShape", ["count"], ["large"]))
    graph.node.append(make_node("ReduceSum", ["large"], ["zero"], keepdims=0))
    graph.node.append(make_node("Add", ["small", "zero"], ["embedding"]))


def answer_double(graph: GraphProto) -> None:
    graph.node[-1].output[0] = "single"
    graph.node.append(make_node("Cast", ["single"], ["embedding"], to=TensorProto.DOUBLE))
    graph.output[-1].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("changes", "purpose"),
    [
        ({"good_for": "corridors", "weights": {"data": "my_bag"}}, "corridors"),
        ({"weights": {"data": "my_bag"}}, "scenes like those of my_bag, which it was trained on"),
        ({}, "not stated"),
    ],
)
def test_what_a_student_is_good_for(tmp_path: Path, changes: dict[str, object], purpose: str) -> None:
    write_student(tmp_path / "student.onnx", description=changed(**changes).to_json())
    assert read_student(tmp_path / "student.onnx").purpose == purpose
    shown = subprocess.run(
        [sys.executable, "-m", "dino_ros.cli", "info", str(tmp_path / "student.onnx")], capture_output=True, text=True
    )
    assert f"good for           {purpose}\n" in shown.stdout


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no student file"):
        read_student(tmp_path / "missing.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    with pytest.raises(UserError, match="not an ONNX file"):
        read_student(text)


def test_the_runtime_never_imports_torch() -> None:
    code = """
import sys
import dino_ros.images.overlay, dino_ros.perception.perceiver
assert not {"torch", "rosbags", "rclpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.xfail(
    version("onnxruntime").startswith("1.23."), reason="this ONNX Runtime reads them: docs/security.md", strict=True
)
@pytest.mark.parametrize("absolute", [False, True])
def test_weights_outside_the_students_folder_are_not_read(tmp_path: Path, absolute: bool) -> None:
    """A student from elsewhere names files that its sender does not have."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.float32(1 / 255 / 0.25).tobytes())
    path = tmp_path / "students" / "s.onnx"
    path.parent.mkdir()
    write_student(path)
    model = onnx.load(path)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.ClearField("float_data")
    scale.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", str(secret) if absolute else "../secret"), ("offset", "0"), ("length", "4")):
        scale.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"that ONNX Runtime .* can load"):
        read_student(path)
