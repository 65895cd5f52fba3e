"""Numerical precision, memory, and gradient synchronization."""

from __future__ import annotations

import contextlib
import resource

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dino_ros.errors import UserError
from dino_train.config import MachineConfig


def choose_precision(machine: MachineConfig, device: torch.device) -> torch.dtype:
    """Choose the precision of the matrix products; raises UserError for fp16 on a CPU."""
    if machine.precision == "fp16" and device.type == "cpu":
        raise UserError(
            "machine.precision is fp16, in which a CPU cannot train: give --machine.precision bf16 or fp32."
        )
    if machine.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[machine.precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far, in bytes: on a GPU that of the device, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def skip_synchronization(model: nn.Module, skip: bool) -> contextlib.AbstractContextManager[None]:
    """Context that skips the exchange of gradients between processes; the last part of a batch makes up for it."""
    if skip and isinstance(model, DistributedDataParallel):
        context: contextlib.AbstractContextManager[None] = model.no_sync()
        return context
    return contextlib.nullcontext()
