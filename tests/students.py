"""A student small enough to check by hand: its outputs are simple functions of the pixels."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from dino_ros.student import METADATA_KEY, StudentInfo

INFO = StudentInfo(
    format_version=1,
    architecture="mean of patches",
    patch_size=8,
    embed_dim=3,
    heads=3,
    registers=0,
    height=32,
    width=48,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    precision="fp32",
    weights={"source": "none"},
    license="Apache-2.0",
)


def expected(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """The student's outputs for images [B, 32, 48, 3], in float64: each patch's mean color, softmaxed and averaged."""
    normalized = (images / 255.0 - 0.5) / 0.25
    features = normalized.reshape(len(images), 4, 8, 6, 8, 3).mean(axis=(2, 4))
    exponentials = np.exp(features - features.max(axis=(1, 2), keepdims=True))
    attention = exponentials / exponentials.sum(axis=(1, 2), keepdims=True)
    return {
        "features": features,
        "attention": attention.transpose(0, 3, 1, 2),
        "embedding": features.mean(axis=(1, 2)),
    }


def write_student(path: Path, info: StudentInfo = INFO, description: str | None = None) -> None:
    """Write the student; `description` replaces the JSON in its metadata, an empty one leaves the metadata out."""
    rows, columns = INFO.grid
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "shift"], ["normalized"]),
        helper.make_node("Transpose", ["normalized"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["patches"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Transpose", ["patches"], ["features"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["patches", "flat"], ["tokens"]),
        helper.make_node("Softmax", ["tokens"], ["weights"], axis=2),
        helper.make_node("Reshape", ["weights", "grid"], ["attention"]),
        helper.make_node("ReduceMean", ["tokens"], ["embedding"], axes=[2], keepdims=0),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255 / 0.25]),
        helper.make_tensor("shift", TensorProto.FLOAT, [], [0.5 / 0.25]),
        helper.make_tensor("flat", TensorProto.INT64, [3], [0, 3, rows * columns]),
        helper.make_tensor("grid", TensorProto.INT64, [4], [0, 3, rows, columns]),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 48, 3])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", rows, columns, 3]),
            helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["batch", 3, rows, columns]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    text = info.to_json() if description is None else description
    if text:
        helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)


def changed(**fields: object) -> StudentInfo:
    """INFO with some values replaced."""
    return dataclasses.replace(INFO, **fields)  # type: ignore[arg-type]
