"""The Sinkhorn-Knopp normalization (Cuturi 2013), as SwAV assigns images to prototypes with it."""

from __future__ import annotations

import torch
from torch import Tensor

from dino_train.machine.distributed import max_over_processes, sum_over_processes


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Share images with these scores [n, K] out among K outputs, each of which gets as many: probabilities [n, K].

    Over the images of all processes together. Each round first gives every output its share of the images, and then
    every image a sum of 1: the sums over the outputs are exact at the end, those over the images nearly so (Caron
    et al. 2020, section 3.1 and the listing in its appendix). No gradient.
    """
    exponents = scores.double() / temperature
    # A common factor cancels; with it nothing overflows.
    q = (exponents - max_over_processes(exponents.max())).exp()
    images = sum_over_processes(torch.tensor(len(q), dtype=q.dtype, device=q.device))
    for _ in range(iterations):
        q *= images / q.shape[1] / sum_over_processes(q.sum(dim=0)).clamp(min=1e-300)
        q /= q.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return q.to(scores.dtype)
