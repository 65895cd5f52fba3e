"""Fitting a run to the machine: precision, compilation, memory, and several GPUs. None of it changes what is learnt."""

from __future__ import annotations

import contextlib
import resource
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dino_ros.errors import UserError
from dino_train.config import MachineConfig
from dino_train.distributed import Processes
from dino_train.objectives.objective import Objective


def prepare(objective: Objective, machine: MachineConfig, processes: Processes) -> Objective:
    """Fit the networks to the machine; the names of their weights stay as they are."""
    student: Any = objective.student
    if any(isinstance(module, nn.BatchNorm1d) for module in objective.modules()) and processes.count > 1:
        if processes.device.type != "cuda":
            raise UserError(
                "The head of this method has batch norm, which several processes share on GPUs only: train in one "
                "process, or on GPUs. (DINO goes without: --dino.use_bn_in_head false.)"
            )
        objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    if machine.checkpoint_activations:
        student.backbone.set_grad_checkpointing(True)
    if machine.compile:
        if not objective.compilable:
            raise UserError("machine.compile is of no use to distillation, which reads the attention: leave it out.")
        network: Any
        for network in objective.children():
            network.backbone.compile()
    if processes.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # for the head, which autocast leaves in fp32
    elif choose_precision(machine, processes.device) == torch.bfloat16:
        attention: Any
        for attention in objective.modules():
            if hasattr(attention, "fused_attn"):
                attention.fused_attn = False  # torch's fused attention is slow in bf16 on a CPU
    return objective


def choose_precision(machine: MachineConfig, device: torch.device) -> torch.dtype:
    """Precision of the matrix products; raises UserError for fp16 on a CPU."""
    if machine.precision == "fp16" and device.type == "cpu":
        raise UserError("machine.precision is fp16, which a CPU cannot train in: choose bf16 or fp32.")
    if machine.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[machine.precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def peak_memory(device: torch.device) -> int:
    """Most memory that this process has taken so far, bytes: the GPU's, or else the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def skip_synchronisation(model: nn.Module, skip: bool) -> contextlib.AbstractContextManager[None]:
    """Leave the exchange of gradients between processes to the last part of a batch."""
    if skip and isinstance(model, DistributedDataParallel):
        context: contextlib.AbstractContextManager[None] = model.no_sync()
        return context
    return contextlib.nullcontext()
