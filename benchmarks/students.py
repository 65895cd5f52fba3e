"""Students of standard shapes with random weights, to measure what depends on the shape alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dino_ros.backends import REFERENCE
from dino_ros.files import replacing
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import FORMAT_VERSION, StudentInfo
from dino_train.export.description import write_description
from dino_train.export.quantize import quantized
from dino_train.export.student import StudentGraph, fix_size, write_onnx
from dino_train.models.backbones import create_vit, mean_and_std, patch_size

SHAPES = {
    "vit_ti_16": "vit_tiny_patch16_224",
    "vit_s_16": "vit_small_patch16_224",
    "vit_s_8": "vit_small_patch8_224",
    "vit_b_16": "vit_base_patch16_224",
}
"""Short name -> timm name."""


def random_student(path: Path, shape: str, height: int = 224, width: int = 224, precision: str = "fp32") -> StudentInfo:
    """Write a student with a shape of SHAPES unless `path` exists; returns its metadata."""
    torch.manual_seed(0)
    vit = fix_size(create_vit(SHAPES[shape]).eval(), height, width)
    mean, std = mean_and_std(vit)
    info = StudentInfo(
        format_version=FORMAT_VERSION,
        architecture=SHAPES[shape],
        patch_size=patch_size(vit),
        embed_dim=int(vit.embed_dim),
        heads=int(vit.blocks[-1].attn.num_heads),
        registers=0,
        height=height,
        width=width,
        mean=mean,
        std=std,
        precision=precision,
        weights={"source": "random"},
        license="none: random weights",
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(StudentGraph(vit, precision).eval(), info, path)
    return info


def quantized_student(path: Path, fp32: Path, images: Sequence[NDArray[np.uint8]]) -> None:
    """Write the int8 student of another, calibrated on RGB images [H, W, 3], unless `path` exists."""
    if path.exists():
        return
    perceiver = Perceiver.load(fp32, REFERENCE)
    model = quantized(onnx.load(fp32), [perceiver.prepare_image(image).input[None] for image in images])
    write_description(model, dataclasses.replace(perceiver.info, precision="int8"))
    with replacing(path) as temporary:
        onnx.save(model, temporary)
