"""Optimizers by name, what weight decay applies to, and gradient clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dino_train.recipes import OptimizerConfig

BACKBONE = "backbone."
"""Prefix of the backbone's parameters in a student."""


def build_optimizer(config: OptimizerConfig, student: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a student's parameters; the training loop sets learning rate and weight decay.

    SGD and LARS have a momentum of 0.9, as in the reference (main_dino.py and utils.py).
    """
    groups: Any = parameter_groups(student, config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    if config.name == "lars":
        return Lars(groups)
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


class Lars(torch.optim.Optimizer):
    """SGD whose update of each weight is as long as the weight, times a coefficient (LARS, You et al. 2017).

    As in the references of DINO and MoCo v3: weight decay is part of the update before its norm is taken; biases and
    norms (one-dimensional) are neither adapted nor decayed, and neither weight nor update of norm 0 is adapted. SwAV's
    is another, LARC: it adds the norms of gradient and decay instead, and adapts biases and norms too.
    """

    def __init__(
        self, params: Any, lr: float = 0.0, weight_decay: float = 0.0, momentum: float = 0.9, coefficient: float = 0.001
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "coefficient": coefficient}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                update = weight.grad
                if weight.ndim > 1:
                    update = update.add(weight, alpha=group["weight_decay"])
                    norm, length = weight.norm(), update.norm()
                    ratio = group["coefficient"] * norm / length
                    update = update * torch.where((norm > 0) & (length > 0), ratio, 1.0)
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                weight.add_(momentum, alpha=-group["lr"])


def parameter_groups(student: nn.Module, config: OptimizerConfig) -> list[dict[str, list[nn.Parameter]]]:
    """Split the trained parameters into weights, which decay, and biases and norms (one-dimensional), which do not.

    Where the backbone has a learning rate of its own, those of the backbone are two further groups, after the others.
    """
    trained = [(name, parameter) for name, parameter in student.named_parameters() if parameter.requires_grad]
    if config.backbone_lr == 1:
        parts = [[parameter for _, parameter in trained]]
    else:
        parts = [[p for name, p in trained if name.startswith(BACKBONE) == inside] for inside in (False, True)]
    return [{"params": [p for p in part if (p.ndim > 1) == decays]} for part in parts for decays in (True, False)]


def set_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, lr: float, weight_decay: float) -> None:
    """Set learning rate and weight decay of an optimizer's groups, in the order of `parameter_groups`."""
    for number, group in enumerate(optimizer.param_groups):
        group["lr"] = lr * (config.backbone_lr if number >= 2 else 1)
        group["weight_decay"] = weight_decay * (number % 2 == 0)


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
