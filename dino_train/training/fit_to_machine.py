"""Fitting a run's networks to the machine, without changing what they learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dino_ros.errors import UserError
from dino_train.config import MachineConfig
from dino_train.machine.distributed import Processes
from dino_train.machine.precision import choose_precision
from dino_train.models.backbones import patch_size
from dino_train.objectives.objective import Objective
from dino_train.recipes import Recipe


def fit_to_machine(objective: Objective, machine: MachineConfig, processes: Processes) -> Objective:
    """Share batch norm between processes, and compile or recompute as `machine` says; weights keep their names.

    Raises UserError for batch norm over several processes on CPUs, and for compiling what cannot be compiled.
    """
    student: Any = objective.student
    if any(isinstance(module, nn.BatchNorm1d) for module in objective.modules()) and processes.count > 1:
        if processes.device.type != "cuda":
            raise UserError(
                "The head of this method has batch norm, which several processes can share only on GPUs: train in one "
                "process or on GPUs (or, for DINO, give --dino.use_bn_in_head false)."
            )
        objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    if machine.checkpoint_activations:
        student.backbone.set_grad_checkpointing(True)
    if machine.compile:
        if not objective.compilable:
            raise UserError(
                "--machine.compile does not work for a method that needs more of a ViT than its CLS token: leave it "
                "out."
            )
        network: Any
        for network in objective.children():
            network.backbone.compile()
    if processes.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the head, which runs in fp32
    elif choose_precision(machine, processes.device) == torch.bfloat16:
        attention: Any
        for attention in objective.modules():
            if hasattr(attention, "fused_attn"):
                attention.fused_attn = False  # torch's fused attention is slow in bf16 on a CPU
    return objective


def step_operations(objective: Objective, recipe: Recipe) -> float:
    """About how many floating-point operations a step takes: six for each parameter of the ViT and patch token."""
    student: Any = objective.student
    crops, patch = recipe.crops, patch_size(student.backbone)
    tokens = 2 * (crops.global_crops_size // patch) ** 2
    tokens += crops.local_crops_number * (crops.local_crops_size // patch) ** 2
    parameters: int = sum(weights.numel() for weights in student.backbone.parameters())
    return 6.0 * parameters * tokens * recipe.batch_size
