"""Weight files of DINO's reference implementation (facebookresearch/dino)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone, resize_position_embedding
from dino_train.models.weight_files import check_finite, read_pickled, strange_contents
from dino_train.recipes import BackboneConfig

DINO_LICENSE = "Apache-2.0"
SIZES = {192: "tiny", 384: "small", 768: "base"}
"""Embedding dimensions of the authors' ViTs and their names."""
LAST_LAYER = "head.last_layer.parametrizations.weight."
RENAMED = {
    "head.last_layer.weight_g": LAST_LAYER + "original0",
    "head.last_layer.weight_v": LAST_LAYER + "original1",
}
"""Names of the last layer's norm [K, 1] and direction [K, bottleneck]: in the authors' files, and in `DinoHead`."""


@dataclass
class OfficialCheckpoint:
    """The content of an official file, under this package's names."""

    backbone: BackboneConfig
    """Architecture of the ViT."""
    image_size: int
    """Side of the square images that its position embedding is for, in pixels."""
    state: dict[str, Tensor]
    """As in `Dino.state_dict()`: `student.backbone.*` and `teacher.backbone.*`, equal for a file with one backbone;
    from a training checkpoint also `student.head.*`, `teacher.head.*` and `center`."""
    epoch: int
    """Epochs trained; 0 if the file does not tell."""
    args: dict[str, Any]
    """Options of main_dino.py; empty unless it is a training checkpoint."""

    @property
    def name(self) -> str:
        """timm's name for the architecture, such as vit_small_patch16_224.dino."""
        return self.backbone.name.replace("patch16", f"patch{self.backbone.patch_size}") + ".dino"


def load_official(path: Path) -> OfficialCheckpoint:
    """Read an official DINO v1 `.pth` file: a ViT, or a training checkpoint of main_dino.py.

    The architecture is derived from the shapes of the weights. Only tensors and plain values are unpickled. Raises
    UserError if the file is missing, cannot be read like that, holds another network, such as the authors' ResNet-50
    and XCiT, or weights that are not finite.
    """
    if not path.is_file():
        raise UserError(f"There is no weights file {path}: give an official DINO v1 .pth file.")
    with strange_contents(path):
        checkpoint = parse_official(read_pickled(path), path)
    check_finite(checkpoint.state, path)
    return checkpoint


def parse_official(content: dict[str, Any], path: Path) -> OfficialCheckpoint:
    """The content of the official file at `path`; see `load_official`."""
    for network in ("student", "teacher"):
        if network in content and not isinstance(content[network], Mapping):
            raise UserError(
                f"{path} holds no weights under {network!r}: give an official DINO v1 .pth file, whole or a backbone."
            )
    teacher = own_names(content.get("teacher", content))
    student = own_names(content["student"]) if "student" in content else teacher
    weights = {k.removeprefix("backbone."): v for k, v in teacher.items() if k.startswith("backbone.")}
    if "patch_embed.proj.weight" not in weights or "pos_embed" not in weights:
        raise UserError(
            f"{path} holds no DINO v1 ViT, its weights have other names: give an official DINO v1 .pth file."
        )
    depth = count_blocks(weights)
    if not depth:
        raise UserError(f"{path} holds the beginning of a ViT without blocks: give the whole file.")
    width, _, _, patch = weights["patch_embed.proj.weight"].shape
    if width not in SIZES:
        raise UserError(
            f"{path} holds a ViT of width {width}: give one of DINO v1, of width {', '.join(map(str, SIZES))}."
        )
    config = BackboneConfig(name=f"vit_{SIZES[width]}_patch16_224", patch_size=patch, embed_dim=width, depth=depth)
    state = {f"student.{k}": v for k, v in student.items()} | {f"teacher.{k}": v for k, v in teacher.items()}
    if any(".head." in name for name in state):
        state["center"] = center_of(content, path)
    args, epoch = content.get("args"), content.get("epoch")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    checkpoint = OfficialCheckpoint(
        config,
        math.isqrt(weights["pos_embed"].shape[1] - 1) * patch,
        state,
        epoch if isinstance(epoch, int) else 0,
        dict(args) if isinstance(args, Mapping) else {},
    )
    with torch.device("meta"):  # only names and shapes
        vit = build_backbone(config, checkpoint.image_size)
    for network in ("student", "teacher"):
        expected = {f"{network}.backbone.{name}": tensor for name, tensor in vit.state_dict().items()}
        found = {name: tensor for name, tensor in state.items() if name.startswith(f"{network}.backbone.")}
        if odd := first_difference(expected, found):
            raise UserError(
                f"{path} holds no DINO v1 ViT, {odd} in a {checkpoint.name}: give an official DINO v1 .pth file."
            )
    return checkpoint


def center_of(content: dict[str, Any], path: Path) -> Tensor:
    """The center [1, K] that belongs to the heads in a training checkpoint."""
    loss = content.get("dino_loss")
    center = loss.get("center") if isinstance(loss, Mapping) else None
    if not isinstance(center, Tensor):
        raise UserError(
            f"{path} has heads but no center (dino_loss.center): give the whole training checkpoint, or its backbone "
            "alone."
        )
    return center


def own_names(network: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors of one of the authors' networks, with or without head, under their names in `Dino.student`."""
    plain = {str(name).removeprefix("module."): value for name, value in network.items() if isinstance(value, Tensor)}
    if not any(name.startswith("backbone.") for name in plain):
        return {f"backbone.{name}": tensor for name, tensor in plain.items()}
    return {RENAMED.get(name, name): tensor for name, tensor in plain.items()}


def count_blocks(names: dict[str, Tensor]) -> int:
    """Number of blocks of a ViT, from the names of its weights."""
    return len({name.split("blocks.")[1].split(".")[0] for name in names if "blocks." in name})


def first_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Describe the first difference of `found` from `expected` in names or shapes; "" if there is none."""
    for name in sorted(expected | found):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not expected"
        if found[name].shape != expected[name].shape:
            return f"{name} has shape {list(found[name].shape)}, not {list(expected[name].shape)}"
    return ""


def settings(vit: VisionTransformer, state: dict[str, Tensor]) -> dict[str, int | bool]:
    """Settings of the recipe that determine the shapes in a `Dino.state_dict()`, with or without heads, of this ViT."""
    found: dict[str, int | bool] = {
        "backbone.patch_size": int(vit.patch_embed.patch_size[0]),
        "backbone.embed_dim": int(vit.embed_dim),
        "backbone.depth": len(vit.blocks),
        "backbone.num_heads": int(vit.blocks[0].attn.num_heads),
    }
    last, first = state.get(f"student.{LAST_LAYER}original1"), state.get("student.head.mlp.0.weight")
    if last is not None and first is not None:
        found["dino.out_dim"], found["dino.bottleneck_dim"] = last.shape
        found["dino.hidden_dim"] = len(first)
        found["dino.use_bn_in_head"] = "student.head.mlp.1.running_mean" in state
    return found


def fit_position_embedding(vit: VisionTransformer, embedding: Tensor) -> Tensor:
    """Resize a position embedding [1, N, C] of a square grid to the grid of `vit`."""
    prefix = 0 if vit.no_embed_class else int(vit.num_prefix_tokens)
    side = math.isqrt(embedding.shape[1] - prefix)
    return resize_position_embedding(embedding, (side, side), vit.patch_embed.grid_size, prefix)
