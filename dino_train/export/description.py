"""A student's description inside its ONNX model."""

from __future__ import annotations

from onnx import ModelProto, helper

from dino_ros.student import METADATA_KEY, StudentInfo


def write_description(model: ModelProto, info: StudentInfo) -> None:
    """Write a description into the model's metadata, in place of any that is there."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**metadata, METADATA_KEY: info.to_json()})
