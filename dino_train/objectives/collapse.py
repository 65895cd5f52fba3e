"""Signs of collapse that do not depend on a method's loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dino_train.machine.distributed import mean_over_processes


def effective_rank(tokens: Tensor) -> Tensor:
    """Exponential of the entropy of the normalized singular values of centered rows [n, C] (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals(tokens - tokens.mean(dim=0))
    rank: Tensor = torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp()
    return rank


def embedding_std(rows: Tensor) -> Tensor:
    """How far the directions of rows [n, D] spread: 1 as those of random rows, 0 where all are the same.

    The standard deviation of each dimension of the normalized rows, which is 1 / sqrt(D) at random (Chen and He 2021,
    section 4.1), times sqrt(D).
    """
    directions = functional.normalize(rows, dim=-1)
    deviation: Tensor = directions.std(dim=0, unbiased=False).mean() * rows.shape[-1] ** 0.5
    return deviation


def entropies(loss: Tensor, targets: Tensor) -> dict[str, float]:
    """What a cross-entropy with targets [n, K] is made of, over all processes, nats.

    `loss`, and the two that it is the sum of: `teacher_entropy` and `kl`. `marginal_entropy`: of the mean target; the
    more it is above `teacher_entropy`, the better the targets tell images apart.
    """
    loss = mean_over_processes(loss.detach())
    entropy = mean_over_processes(torch.special.entr(targets).sum(dim=-1).mean())
    marginal = torch.special.entr(mean_over_processes(targets.mean(dim=0))).sum()
    return {
        "loss": loss.item(),
        "teacher_entropy": entropy.item(),
        "kl": (loss - entropy).item(),
        "marginal_entropy": marginal.item(),
    }
