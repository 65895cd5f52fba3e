"""Signs of collapse that do not depend on a method's loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dino_train.machine.distributed import mean_over_processes


def effective_rank(tokens: Tensor) -> Tensor:
    """Effective rank of CLS tokens [n, C], 1 to C: RankMe (Garrido et al. 2023), on centered tokens.

    The exponential of the entropy of the normalized singular values (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(tokens - tokens.mean(dim=0))
    rank: Tensor = torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp()
    return rank


def embedding_std(rows: Tensor) -> Tensor:
    """Standard deviation of L2-normalized rows [n, D]: 0 if all are the same, 1 for random directions.

    The mean over the dimensions, times sqrt(D): of random directions each has 1 / sqrt(D) (Chen and He 2021,
    section 4.1).
    """
    directions = functional.normalize(rows, dim=-1)
    deviation: Tensor = directions.std(dim=0, unbiased=False).mean() * rows.shape[-1] ** 0.5
    return deviation


def entropies(loss: Tensor, targets: Tensor) -> dict[str, float]:
    """The parts of a cross-entropy `loss` with targets [n, K], over all processes, in nats.

    `loss` is the sum of `teacher_entropy`, that of one target, and `kl`. `marginal_entropy` is the entropy of the mean
    target: the further it lies above `teacher_entropy`, the better the targets tell images apart.
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
