"""A queue of past outputs as a ring buffer; its tensors are buffers of an objective, so that checkpoints hold them."""

from __future__ import annotations

import torch
from torch import Tensor

from dino_train.machine.distributed import gather_over_processes


@torch.no_grad()
def enqueue(queue: Tensor, pointer: Tensor, rows: Tensor) -> int:
    """Replace the oldest entries of a queue [N, ...] by the rows [n, ...] of all processes, of which the last N count.

    `pointer` is the index of the oldest entry, and is moved. Returns the number of entries written.
    """
    rows = gather_over_processes(rows)[-len(queue) :]
    queue[(pointer + torch.arange(len(rows), device=rows.device)) % len(queue)] = rows
    pointer.copy_((pointer + len(rows)) % len(queue))
    return len(rows)
