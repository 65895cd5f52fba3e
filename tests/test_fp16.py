"""fp16 students of a ViT with a few channels far larger than the rest, as large ViTs have.

ONNX Runtime computes fp16 graphs in fp32 on CPUs. The reference evaluator of onnx rounds after every operation, as a
GPU does, and squares in fp16 where the graph says so.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")

from benchmarks.students import random_student
from dino_ros.backends.parity import TOLERANCE, compare, shipped_images
from dino_train.export.student import OUTPUTS, StudentGraph, fix_size, write_onnx
from dino_train.models.backbones import create_vit

SIZE, OUTLIER = 64, 300.0


def outlier_vit(images: np.ndarray) -> torch.nn.Module:
    """A small ViT in which two channels carry OUTLIER, and the later norms undo its effect on the others."""
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", patch_size=8, embed_dim=64, depth=3, num_heads=4)
    vit = fix_size(vit.eval(), SIZE, SIZE)
    large, rest = [7, 31], [c for c in range(64) if c not in (7, 31)]
    with torch.no_grad():
        for weights in vit.blocks.parameters():
            if weights.ndim == 2:
                weights *= 3  # otherwise attention is almost uniform
        vit.blocks[0].mlp.fc2.bias[large] += torch.tensor([OUTLIER, -OUTLIER])

        def make_up(norm: torch.nn.LayerNorm, inputs: tuple[torch.Tensor]) -> None:
            tokens = inputs[0]
            norm.weight *= (tokens.var(-1).mean() / tokens[..., rest].var(-1).mean()).sqrt()
            norm.weight[large] = 0

        norms = [module for module in vit.modules() if isinstance(module, torch.nn.LayerNorm)][2:]
        hooks = [norm.register_forward_pre_hook(make_up) for norm in norms]
        StudentGraph(vit, "fp32")(torch.from_numpy(images))
        for hook in hooks:
            hook.remove()
    return vit


class Evaluator:
    """A student in onnx's reference evaluator, as a backend."""

    description = "reference evaluator"

    def __init__(self, path: Path) -> None:
        self.session = ReferenceEvaluator(onnx.load(path))

    def __call__(self, images: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
        return dict(zip(outputs, self.session.run(list(outputs), {"images": images}), strict=True))


class Torch:
    """A ViT in torch in fp32, as a backend."""

    description = "torch"

    def __init__(self, vit: torch.nn.Module) -> None:
        self.graph = StudentGraph(vit, "fp32")

    def __call__(self, images: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            answers = dict(zip(OUTPUTS, self.graph(torch.from_numpy(images)), strict=True))
        return {name: answers[name].numpy() for name in outputs}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for rgb in shipped_images()])


@pytest.fixture(scope="module")
def exported(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp16") / "student.onnx"
    info = dataclasses.replace(random_student(Path(__file__), "vit_ti_16", SIZE, SIZE, "fp16"), patch_size=8)
    write_onnx(StudentGraph(outlier_vit(images), "fp16").eval(), info, path)
    return path


def test_outliers_do_not_spoil_an_fp16_student(exported: Path, images: np.ndarray) -> None:
    found = compare(Evaluator(exported), Torch(outlier_vit(images)), images)
    assert found.cosine > 0.9995
    assert found.mask_iou > 0.95


def test_they_would_if_norms_were_computed_in_fp16(exported: Path, images: np.ndarray, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for node in model.graph.node:  # the casts around each norm, and its weights
        if node.op_type == "Cast" and any(node.output[0] in norm.input for norm in norms(model)):
            node.attribute[0].i = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if any(tensor.name in norm.input for norm in norms(model)):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("f2"), tensor.name))
    onnx.save(model, tmp_path / "all_fp16.onnx")
    with np.errstate(all="ignore"):
        found = compare(Evaluator(tmp_path / "all_fp16.onnx"), Torch(outlier_vit(images)), images)
    assert not found.cosine >= TOLERANCE.cosine


def test_norms_and_the_cls_rows_softmax_are_fp32_and_the_rest_fp16(exported: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(exported))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert len(norms(model)) == 7
    assert {types[norm.input[0]] for norm in norms(model)} == {TensorProto.FLOAT}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert [types[node.input[0]] for node in softmaxes] == [TensorProto.FLOAT16] * 3 + [TensorProto.FLOAT]
    linear = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert [types[node.output[0]] for node in linear].count(TensorProto.FLOAT) == 1  # CLS query and keys


def norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "LayerNormalization"]
