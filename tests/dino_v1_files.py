"""Files as published by DINO's authors, and checkpoints of ours."""

import argparse
from pathlib import Path

import numpy as np
import torch
from reference_vit import shake

from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.models.backbones import build_backbone
from dino_train.models.checkpoint import Checkpoint, save_checkpoint
from dino_train.objectives.dino import Dino
from dino_train.recipes import BackboneConfig, CropsConfig, DinoConfig, DinoRecipe

RECIPE = DinoRecipe(
    backbone=BackboneConfig("vit_tiny_patch16_224", patch_size=8, depth=2),
    crops=CropsConfig(32, 16),
    dino=DinoConfig(out_dim=48, hidden_dim=40, bottleneck_dim=24),
)


def official_head(batch_norm: bool) -> torch.nn.Module:
    """The authors' projection head, with torch's old weight norm and random weights."""
    layers: list[torch.nn.Module] = []
    for width, out in ((192, 40), (40, 40)):
        norm = [torch.nn.BatchNorm1d(out)] if batch_norm else []
        layers += [torch.nn.Linear(width, out), *norm, torch.nn.GELU()]
    head = torch.nn.Module()
    head.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(40, 24))
    head.last_layer = torch.nn.utils.weight_norm(torch.nn.Linear(24, 48, bias=False))
    with torch.no_grad():
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if tensor.ndim == 1 else -0.5))
    return head


def official_file(path: Path, batch_norm: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """Write a training checkpoint as main_dino.py does; return its two networks without prefixes."""
    torch.manual_seed(3)
    networks, stored = {}, {}
    for number, (network, wrapper) in enumerate((("student", "module."), ("teacher", "module." if batch_norm else ""))):
        vit = shake(build_backbone(RECIPE.backbone, 48), number)
        state = {f"backbone.{name}": tensor for name, tensor in vit.state_dict().items()}
        state |= {f"head.{name}": tensor for name, tensor in official_head(batch_norm).state_dict().items()}
        networks[network], stored[network] = state, {wrapper + name: tensor for name, tensor in state.items()}
    content = {
        **stored,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4), "weight_decay": np.float64(0.4)}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", patch_size=8, out_dim=48, global_crops_scale=[0.4, 1.0]),
        "dino_loss": {"center": torch.randn(1, 48)},
        "fp16_scaler": {"scale": 65536.0},
    }
    torch.save(content, path)
    return networks


def own_checkpoint(path: Path, recipe: DinoRecipe) -> dict[str, torch.Tensor]:
    """Write a checkpoint of `dino-train pretrain` whose student and teacher differ; return its state."""
    dino = Dino(recipe)
    shake(dino)
    dino.center += 1
    save_checkpoint(
        Checkpoint(
            recipe=recipe,
            data=DataConfig(["bag"]),
            machine=MachineConfig(),
            evaluation=EvaluationConfig(),
            images=100,
            step=7,
            steps_per_epoch=1,
            objective=dino.state_dict(),
            optimizer={},
            scaler={},
            seconds=1.0,
        ),
        path,
    )
    return dino.state_dict()
