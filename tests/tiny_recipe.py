"""A recipe that trains in seconds, and a checkpoint of it."""

import torch

from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.models.checkpoint import Checkpoint
from dino_train.recipes import BackboneConfig, CropsConfig, DinoConfig, DinoRecipe, OptimizerConfig

RECIPE = DinoRecipe(
    backbone=BackboneConfig(
        "vit_tiny_patch16_224", patch_size=8, embed_dim=64, depth=3, num_heads=2, drop_path_rate=0.0
    ),
    crops=CropsConfig(
        32, 16, local_crops_number=2, global_crops_scale=(0.6, 1.0), local_crops_scale=(0.25, 0.6), color=0.3
    ),
    dino=DinoConfig(
        out_dim=256,
        hidden_dim=256,
        bottleneck_dim=64,
        warmup_teacher_temp=0.015,
        teacher_temp=0.03,
        warmup_teacher_temp_epochs=4,
        center_momentum=0.8,
        momentum_teacher=0.98,
    ),
    optimizer=OptimizerConfig(lr=4e-3, warmup_epochs=2),
    epochs=12,
    batch_size=64,
)

CPU = MachineConfig(device="cpu", workers=0)


def a_checkpoint(images: int = 70, fingerprint: str = "") -> Checkpoint:
    """A checkpoint of few and simple weights."""
    weights = {"student.weight": torch.arange(3000.0).reshape(50, 60), "center": torch.ones(7)}
    return Checkpoint(
        recipe=RECIPE,
        data=DataConfig(["images"]),
        machine=CPU,
        evaluation=EvaluationConfig(),
        images=images,
        step=3,
        steps_per_epoch=5,
        objective=weights,
        optimizer={},
        scaler={},
        seconds=1.0,
        fingerprint=fingerprint,
    )
