"""Optimizers by name, what weight decay applies to, and gradient clipping."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn

from dino_train.recipes import OptimizerConfig


def build_optimizer(config: OptimizerConfig, student: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a student's parameters; the training loop sets learning rate and weight decay.

    SGD and LARS have a momentum of 0.9. LARS has a trust coefficient of 0.001, which does not apply to biases and
    norms, as in the reference (main_dino.py and utils.py).
    """
    groups: Any = parameter_groups(student)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    if config.name == "lars":
        optimizer: torch.optim.Optimizer = Lars(groups, lr=0.0, momentum=0.9, trust_coeff=0.001)
        return optimizer
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def parameter_groups(student: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Split the trained parameters into weights, which decay, and biases and norms (one-dimensional), which do not."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    return [{"params": [p for p in trained if p.ndim > 1]}, {"params": [p for p in trained if p.ndim <= 1]}]


def clip_each_gradient(student: nn.Module, limit: float) -> Tensor:
    """Scale each parameter's gradient to a norm of at most `limit` (0: no clipping), as the reference does.

    Returns the total norm of all gradients before clipping.
    """
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    if limit:
        scales = [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
        torch._foreach_mul_(gradients, scales)
    total: Tensor = torch.stack(norms).norm()
    return total
