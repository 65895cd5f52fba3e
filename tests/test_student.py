"""The student file: what is read, and what is refused with which sentence."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import numpy as np
import onnx
from onnx import GraphProto, TensorProto
from onnx.helper import make_node, make_tensor, make_tensor_value_info
from students import INFO, changed, write_student

from dino_ros import student as student_file
from dino_ros.errors import UserError
from dino_ros.external_weights import has_external_weights
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


def test_a_file_that_passed_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.onnx"
    write_student(path)
    checked: list[Path] = []
    check, memory = student_file._check, student_file._memory()
    monkeypatch.setattr(student_file, "_check", lambda path: checked.append(path) or check(path))

    def read_anew() -> int:
        """As the next process would; returns how often files were checked so far."""
        student_file._read.cache_clear()
        assert read_student(path) == INFO
        return len(checked)

    assert [read_anew(), read_anew()] == [1, 1]
    path = path.rename(tmp_path / "b.onnx")
    assert read_anew() == 1, "it is the content that counts"
    monkeypatch.setattr(student_file, "_memory", lambda: memory // 2)
    assert [read_anew(), read_anew()] == [2, 2], "it passed with more memory than there is"
    (kept,) = (tmp_path / "cache" / "dino_ros" / "students").iterdir()
    for damaged in ("", "[]", '{"memory": 1, "description": "{}"}'):
        kept.write_text(damaged)
        assert read_anew() == len(checked)
    assert len(checked) == 5
    path.write_bytes(path.read_bytes()[:-200])
    for _ in range(2):
        student_file._read.cache_clear()
        with pytest.raises(UserError):
            read_student(path)
    assert len(checked) == 7, "what is refused is not kept"


def test_the_node_imports_no_engine_and_no_reader_of_recordings() -> None:
    """Its start would take as much longer."""
    pytest.importorskip("rclpy")
    code = "import sys, dino_ros.nodes.perception_node; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"onnxruntime", "openvino", "dino_ros.images.bags", "dino_ros.learning.learner", "scipy"}


def test_the_runtime_never_imports_torch() -> None:
    code = """
import sys
import dino_ros.images.overlay, dino_ros.perception.perceiver
assert not {"torch", "rosbags", "rclpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("location", ["secret", "../secret", "{folder}/secret", "link/secret", "*/_ORT_MEM_ADDR_/*"])
def test_weights_in_other_files_are_not_read(tmp_path: Path, location: str) -> None:
    """A student from elsewhere names files that its sender does not have."""
    path = tmp_path / "students" / "student.onnx"
    path.parent.mkdir()
    (path.parent / "link").symlink_to(tmp_path)
    for folder in (tmp_path, path.parent):
        (folder / "secret").write_bytes(np.float32(1 / 255 / 0.25).tobytes())
    write_student(path)
    model = onnx.load(path)
    move_out(model.graph.initializer[0], location.format(folder=tmp_path))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="takes weights from other files, and a student is one file"):
        read_student(path)


def move_out(tensor: TensorProto, location: str = "weights") -> None:
    """Let the values of a tensor be in another file."""
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


def branch(model: onnx.ModelProto) -> TensorProto:
    node = model.graph.node.add(op_type="If")
    return node.attribute.add(name="then_branch").g.initializer.add()


@pytest.mark.parametrize(
    "tensor_in",
    [
        lambda model: model.graph.node[0].attribute.add(name="value").t,
        lambda model: model.graph.node[0].attribute.add(name="values").tensors.add(),
        lambda model: model.graph.sparse_initializer.add().values,
        lambda model: model.graph.node[0].attribute.add(name="value").sparse_tensor.indices,
        lambda model: model.functions.add(name="f").node.add().attribute.add(name="value").t,
        branch,
    ],
)
def test_weights_in_other_files_are_found_wherever_a_tensor_may_be(
    student: Path, tmp_path: Path, tensor_in: Callable[[onnx.ModelProto], TensorProto]
) -> None:
    model = onnx.load(student)
    tensor = tensor_in(model)
    (tmp_path / "inside.onnx").write_bytes(model.SerializeToString())
    assert not has_external_weights(tmp_path / "inside.onnx")
    move_out(tensor)
    (tmp_path / "outside.onnx").write_bytes(model.SerializeToString())
    assert has_external_weights(tmp_path / "outside.onnx")


def test_weights_in_other_files_are_found_behind_a_long_tag(student: Path, tmp_path: Path) -> None:
    """ONNX Runtime reads a tag of up to five bytes and keeps 32 bits of it."""
    path = tmp_path / "long.onnx"
    model = onnx.load(student)
    path.write_bytes(with_long_tag(model))
    assert read_student(path) == INFO
    move_out(model.graph.initializer[0])
    path.write_bytes(with_long_tag(model))
    with pytest.raises(UserError, match="takes weights from other files"):
        read_student(path)


def with_long_tag(model: onnx.ModelProto) -> bytes:
    """The model's bytes, with a 33rd bit in the tag of its graph."""
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    tag = bytes([7 << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x10])
    length = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7])
    return rest.SerializeToString() + tag + length + graph


@pytest.mark.parametrize("size", [0, 1, 100, 400, -1])
def test_a_file_that_ends_too_early_is_refused(student: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(student.read_bytes()[:size])
    with pytest.raises(UserError, match=r"not an ONNX file that can be read .*: export the student again"):
        read_student(path)
