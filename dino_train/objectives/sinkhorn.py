"""The Sinkhorn-Knopp algorithm (Cuturi 2013), with which SwAV assigns images to prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dino_train.machine.distributed import max_over_processes, sum_over_processes


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assign images with scores [n, K] to K outputs so that each output gets an equal share: probabilities [n, K].

    The shares are equal over the images of all processes. Each iteration first rescales every output to its share, then
    every image to a sum of 1; at the end an image's probabilities sum to exactly 1, and the outputs' shares are nearly
    equal (Caron et al. 2020, section 3.1 and the listing in its appendix). No gradient.
    """
    exponents = scores.double() / temperature
    # The common factor cancels; it keeps exp from overflowing. A process may have no scores: where no patch is masked.
    largest = exponents.max() if len(exponents) else exponents.new_tensor(-math.inf)
    q = (exponents - max_over_processes(largest)).exp()
    images = sum_over_processes(torch.tensor(len(q), dtype=q.dtype, device=q.device))
    for _ in range(iterations):
        q *= images / q.shape[1] / sum_over_processes(q.sum(dim=0)).clamp(min=1e-300)
        q /= q.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return q.to(scores.dtype)
