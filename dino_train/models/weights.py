"""Open weights by file or by timm name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone, create_vit, patch_size
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.models.dino_v1 import load_official
from dino_train.recipes import PretrainRecipe


@dataclass
class Weights:
    """A ViT and where its weights come from."""

    vit: VisionTransformer
    architecture: str
    origin: dict[str, str | int | float]
    license: str


def open_weights(weights: str, network: str | None = None) -> Weights:
    """Load a checkpoint of `dino-train` (.pt), an official DINO v1 file (.pth) or a timm model by its name.

    `network` is "teacher", "student" or "random" (a checkpoint's architecture with random weights); by default the one
    that the method exports. Raises UserError if the weights cannot be read or have no such network.
    """
    path = Path(weights)
    if network == "random" and path.suffix != ".pt":
        raise UserError(
            f"--network random takes the shape of a checkpoint of `dino-train` (.pt): give one instead of {weights}."
        )
    if path.suffix == ".pt":
        checkpoint = load_checkpoint(path)
        backbone, network = checkpoint.recipe.backbone, network or checkpoint.network
        if network == "random":
            torch.manual_seed(checkpoint.recipe.seed)
            vit = build_backbone(backbone, checkpoint.recipe.crops.global_crops_size, download=False)
        else:
            vit = checkpoint_backbone(checkpoint, network)
        command = "pretrain" if isinstance(checkpoint.recipe, PretrainRecipe) else "distill"
        origin: dict[str, str | int | float] = {
            "source": f"dino-train {command}, {network}",
            "data": ", ".join(Path(path).name for path in checkpoint.data.paths),
            "images": checkpoint.images,
            "steps": checkpoint.step,
            "recipe": json.dumps(dataclasses.asdict(checkpoint.recipe)),
        }
        architecture = f"{backbone.name.split('_patch')[0]}, patch {patch_size(vit)}, {len(vit.blocks)} blocks"
        return Weights(vit, architecture, origin, "not stated")
    if path.suffix == ".pth":
        official, network = load_official(path), network or "teacher"
        source = f"official DINO v1 file {path.name}, {network}"
        return Weights(official.vit(network), official.name, {"source": source}, "Apache-2.0")
    vit = create_vit(weights, pretrained=True)
    license = str(vit.pretrained_cfg.get("license") or "not stated")
    return Weights(vit, weights, {"source": f"timm {weights}"}, license)


def weights_hash(vit: VisionTransformer) -> str:
    """SHA-256 of all weights in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
