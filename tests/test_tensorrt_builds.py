"""Real TensorRT-RTX engines, built without their GPUs."""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import onnx
from onnx import helper

trt = pytest.importorskip("tensorrt_rtx")

from dino_ros import cli
from dino_ros.backends.ahead_of_time import engines_for
from dino_ros.backends.cuda_device import Device
from dino_ros.backends.engine_cache import engine_file, record_file
from dino_ros.backends.tensorrt import engine_key
from dino_ros.backends.tensorrt_build import RTX, load_variant
from dino_ros.errors import UserError
from dino_ros.files import cache_folder
from dino_ros.student import read_student

CARDS = {
    "sm86": Device("NVIDIA GeForce RTX 3090", "8.6", "12.6"),
    "sm89": Device("NVIDIA GeForce RTX 4090", "8.9", "12.8"),
    "sm120": Device("NVIDIA GeForce RTX 5090", "12.0", "13.0"),
}


@pytest.mark.parametrize("shape", ["vit_ti_16", "vit_s_16", "vit_s_8"])
def test_students_of_the_usual_shapes(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of each: more would be the same operators on the same sizes, and the bundled students have more."""
    pytest.importorskip("torch")
    from benchmarks import students

    monkeypatch.setattr(students, "create_vit", partial(students.create_vit, depth=2))
    students_bytes, engines_bytes = {}, {}
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{shape}_{precision}.onnx"
        students.random_student(path, shape, precision=precision)
        assert_every_operator_is_known(path)
        heard: list[str] = []
        built = engines_for(path, list(CARDS), 4, tmp_path, heard.append)
        assert sum(": 100 % after " in sentence for sentence in heard) == len(CARDS)
        for card, (record, file) in zip(CARDS.values(), built, strict=True):
            # What a node with four cameras on that card looks for.
            key = engine_key(load_variant(RTX), path, read_student(path), 4, card)
            assert (record.key, file) == (key, engine_file(tmp_path, key))
            assert file.stat().st_size == record.bytes
            assert hashlib.sha256(file.read_bytes()).hexdigest() == record.sha256
            assert json.loads(record_file(tmp_path, key).read_text())["key"]["precision"] == precision
        students_bytes[precision], engines_bytes[precision] = path.stat().st_size, record.bytes
        assert record.bytes > 0.9 * path.stat().st_size  # it holds the weights
    saved = students_bytes["fp32"] - students_bytes["fp16"]
    assert saved > 0.4 * students_bytes["fp32"]
    assert engines_bytes["fp32"] - engines_bytes["fp16"] > 0.9 * saved  # it holds them in fp16


def assert_every_operator_is_known(path: Path) -> None:
    variant = load_variant(RTX)
    builder = trt.Builder(variant.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, variant.logger)
    assert parser.supports_model_v2(path.read_bytes())
    assert [parser.is_subgraph_supported(number) for number in range(parser.num_subgraphs)] == [True]
    assert len(parser.get_subgraph_nodes(0)) == len(onnx.load(path).graph.node)
    assert parser.num_errors == 0


def engine(*arguments: object) -> int:
    sys.argv = ["dino-ros", "engine", *map(str, arguments)]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder("engines")


@pytest.mark.parametrize(("student", "precision"), [("table_vit_micro_8", "fp32"), ("scenes_vit_small_20", "int8")])
def test_a_bundled_student_goes_into_the_cache_once(
    cache: Path, capsys: pytest.CaptureFixture[str], student: str, precision: str
) -> None:
    assert engine(student, "--target", "sm86,SM89,sm86") == 0
    first = capsys.readouterr().out.splitlines()
    assert sum("Building the TensorRT-RTX" in line for line in first) > 2
    table = first[-3:]
    assert table[0].split() == ["target", "precision", "batch", "seconds", "MB", "file"]
    assert [row.split()[:3] for row in table[1:]] == [["sm86", precision, "1"], ["sm89", precision, "1"]]
    assert [Path(row.split()[-1]) for row in table[1:]] == sorted(cache.glob("*.engine"))
    assert engine(student, "--target", "sm86,sm89") == 0
    assert capsys.readouterr().out.splitlines() == table


def without_cast(path: Path, out: Path) -> None:
    """The student with its pixels transposed before they are cast, which TensorRT does not support."""
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Transpose", ["images"], ["same"], perm=[0, 1, 2, 3], name="first"))
    model.graph.node[1].input[0] = "same"
    onnx.save(model, out)


def test_a_student_that_tensorrt_does_not_support(student: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    without_cast(student, path)
    with pytest.raises(UserError, match=r"odd\.onnx: Transpose first \(.*UInt8"):
        engines_for(path, ["sm86"], 1, tmp_path, lambda sentence: None)
    assert not list(tmp_path.glob("*.engine"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "sm86,sm70"], "no target 'sm70': TensorRT-RTX 1."),
        (["--target", "sm86", "--batch", "0"], "--batch is 0"),
        (["--target", "sm86", "--backend", "tensorrt"], "--backend tensorrt"),
        (["--out", "engines"], "--out"),
        (["no_such_student", "--target", "sm86"], "no student 'no_such_student'"),
        (["--target", "sm86", "{broken}"], "is not an ONNX file"),
    ],
)
def test_what_cannot_be_built_is_named(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08 no graph")
    assert engine(*(argument.format(broken=tmp_path / "broken.onnx") for argument in arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not cache.exists()
