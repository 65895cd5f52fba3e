"""Students of int8: they run everywhere, their cost is what a slow computation says, and too high a cost is refused."""

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("nncf")

import onnx
from dino_v1_files import own_checkpoint
from shapes import render_shape, write_shapes
from students import changed, write_student
from tiny_recipe import RECIPE as DEEPER

from dino_ros.backends import open_backend
from dino_ros.errors import UserError
from dino_ros.masks.attention import keep_mass
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_train.cli import run
from dino_train.data.frames import open_frames
from dino_train.export import quantize

RECIPE = dataclasses.replace(DEEPER, backbone=dataclasses.replace(DEEPER.backbone, depth=2))
FRAMES = 20
HELD_OUT = range(16, FRAMES)
SIZE = ["--size", "48x32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, images, labeled images, and the fp32 and int8 students made of them."""
    folder = tmp_path_factory.mktemp("quantized")
    own_checkpoint(folder / "checkpoint.pt", RECIPE)
    (folder / "images").mkdir()
    write_shapes(folder / "images", FRAMES)
    rng = np.random.default_rng(5)
    for part, count in (("train", 8), ("val", 5)):
        for kind in range(4):
            (folder / "labeled" / part / str(kind)).mkdir(parents=True)
            for number in range(count):
                file = folder / "labeled" / part / str(kind) / f"{number}.png"
                cv2.imwrite(str(file), render_shape(kind, rng)[:, :, ::-1])
    checkpoint = str(folder / "checkpoint.pt")
    run(["export", checkpoint, *SIZE, "--out", str(folder / "fp32.onnx")])
    data = ["--data", str(folder / "images"), "--knn", str(folder / "labeled")]
    run(["export", checkpoint, *SIZE, "--out", str(folder / "int8.onnx"), "--precision", "int8", *data])
    return folder


def held_out(folder: Path) -> list[np.ndarray]:
    """The last fifth of the images, as the robot would resize them."""
    files = sorted((folder / "images").glob("*.png"))
    return [cv2.resize(cv2.imread(str(files[n]))[:, :, ::-1], (32, 48), interpolation=cv2.INTER_AREA) for n in HELD_OUT]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_runs_on_batches_of_any_size(folder: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    path, images = folder / "int8.onnx", held_out(folder)
    # Without the parity gate: an untrained ViT looks everywhere alike, and the mask hangs on its last digits.
    student = Perceiver(read_student(path), open_backend(backend, path))
    together = student(images, ("features", "attention", "embedding"))
    alone = student(images[0], ("features", "attention", "embedding"))
    fp32 = Perceiver.load(folder / "fp32.onnx", "onnxruntime")(images, ("features", "attention", "embedding"))
    for name in ("features", "attention", "embedding"):
        ours, theirs = (np.stack([getattr(one, name) for one in seen]) for seen in (together, fp32))
        assert np.abs(ours - theirs).max() < 0.15 * np.abs(theirs).max()
        # A value at the border of two levels may fall to either side in a batch.
        np.testing.assert_allclose(getattr(alone, name), ours[0], atol=0.05 * np.abs(ours).max())


def test_it_describes_itself_and_is_what_nvidia_engines_take(folder: Path) -> None:
    info, before = read_student(folder / "int8.onnx"), read_student(folder / "fp32.onnx")
    assert (info.precision, before.precision, before.quantization) == ("int8", "fp32", {})
    assert info.weights == before.weights
    model = onnx.load(folder / "int8.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    zeros = [constants[node.input[2]] for node in quantizers]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    int8_weights = [constants[node.input[0]] for node in quantizers if node.input[0] in constants]
    assert len(int8_weights) == 4 * RECIPE.backbone.depth  # qkv, proj, fc1, fc2; no bias, no patch embedding
    assert all(weights.dtype == np.int8 and weights.ndim == 2 for weights in int8_weights)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    rounded = {name for node in quantizers for name in node.output}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            assert not rounded & set(node.input)
        if node.op_type == "Softmax":
            assert makers[node.input[0]] in {"MatMul", "Add"}, "softmax takes the products as they are"


def test_its_cost_is_what_a_slow_computation_says(folder: Path) -> None:
    before, after = (Perceiver.load(folder / f"{name}.onnx", "onnxruntime") for name in ("fp32", "int8"))
    cosines, overlaps = [], []
    for image in held_out(folder):
        ours, theirs = after(image, ("features", "attention")), before(image, ("features", "attention"))
        for a, b in zip(ours.features.reshape(-1, 64).tolist(), theirs.features.reshape(-1, 64).tolist(), strict=True):
            cosines.append(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
        one, other = (keep_mass(seen.attention.mean(axis=0), 0.6) for seen in (ours, theirs))
        overlaps.append((one & other).sum() / (one | other).sum())

    def accuracy(student: Perceiver) -> float:
        """Weighted vote of the 20 nearest of 32 images."""
        embeddings, labels = {}, {}
        for part in ("train", "val"):
            files = sorted((folder / "labeled" / part).rglob("*.png"))
            seen = [student(cv2.imread(str(file))[:, :, ::-1]).embedding.astype(float) for file in files]
            embeddings[part] = [one / np.linalg.norm(one) for one in seen]
            labels[part] = [int(file.parent.name) for file in files]
        right = 0
        for embedding, label in zip(embeddings["val"], labels["val"], strict=True):
            near = sorted(((embedding @ other, kind) for other, kind in zip(embeddings["train"], labels["train"],
                          strict=True)), reverse=True)[:20]  # fmt: skip
            votes = [sum(np.exp(s / 0.07) for s, kind in near if kind == voted) for voted in range(4)]
            right += int(np.argmax(votes)) == label
        return right / len(labels["val"])

    cost = read_student(folder / "int8.onnx").quantization
    assert cost["cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert cost["mask_iou"] == pytest.approx(np.mean(overlaps))
    assert (cost["frames"], cost["calibration_frames"]) == (len(HELD_OUT), FRAMES - len(HELD_OUT))
    assert cost["knn_fp32"] == pytest.approx(accuracy(before))
    assert cost["knn_int8"] == pytest.approx(accuracy(after))


def test_too_high_a_cost_is_refused_with_the_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose last products are scaled wrongly, in the place of the quantized one."""
    right = quantize.quantized

    def wrong(model: onnx.ModelProto, batches: object) -> onnx.ModelProto:
        made = right(model, batches)  # type: ignore[arg-type]
        scales = {node.input[1] for node in made.graph.node if node.op_type == "DequantizeLinear"}
        for one in made.graph.initializer:
            if one.name in scales:
                one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) * np.float32(2.5), one.name))
        return made

    monkeypatch.setattr(quantize, "quantized", wrong)
    data = ["--data", str(folder / "images"), "--precision", "int8"]
    sentence = r"int8 costs too much .*cosine of patch tokens 0\.\d+, mask IoU \d\.\d+.* 0\.99 and 0\.9"
    with pytest.raises(UserError, match=sentence):
        run(["export", str(folder / "checkpoint.pt"), *SIZE, *data, "--out", str(tmp_path / "x.onnx")])
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["export", str(folder / "checkpoint.pt"), *SIZE, "--precision", "int8", "--out", str(tmp_path / "x.onnx")]
    with pytest.raises(UserError, match="int8 needs --data"):
        run(command)
    image = str(folder / "images" / "0000.png")
    with pytest.raises(UserError, match="has one frame"):
        run([*command, "--data", image])
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match="nncf"):
        run([*command, "--data", str(folder / "images")])
    assert not list(tmp_path.iterdir())


def test_frames_to_measure_on_are_the_last_of_each_source(folder: Path) -> None:
    images = str(folder / "images")
    first, last = quantize.choose_frames(open_frames([images, images]))
    assert last == [*HELD_OUT, *(FRAMES + n for n in HELD_OUT)]
    assert sorted(first + last) == list(range(2 * FRAMES))
    single = str(folder / "images" / "0003.png")
    assert quantize.choose_frames(open_frames([single, single, single])) == ([0, 1], [2])


def test_files_of_before_there_was_int8_are_read(tmp_path: Path) -> None:
    written = json.loads(changed(precision="fp16").to_json())
    del written["quantization"]
    write_student(tmp_path / "old.onnx", description=json.dumps(written))
    assert read_student(tmp_path / "old.onnx").quantization == {}
    written["quantization"] = 3
    write_student(tmp_path / "bad.onnx", description=json.dumps(written))
    with pytest.raises(UserError, match="impossible quantization 3"):
        read_student(tmp_path / "bad.onnx")
