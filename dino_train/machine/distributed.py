"""Training in one process or in several: joining them, and reductions over all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from dino_ros.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes the files and the messages."""
        return self.rank == 0


@contextlib.contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started (NCCL on GPUs, gloo on CPUs), or run as a single one.

    `device` is "auto", "cpu" or "cuda"; each process of a host gets a GPU of its own. Raises UserError if `device` is
    "cuda" and torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "machine.device is cuda, but torch finds no GPU: give --machine.device cpu, or install torch for your CUDA "
            "version."
        )
    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    own = torch.device("cpu")
    if gpu:
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(own)
    if "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, own)
        return
    distributed.init_process_group("nccl" if gpu else "gloo", device_id=own if gpu else None)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), own)
    finally:
        distributed.destroy_process_group()


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; the tensor itself in a single process."""
    if not distributed.is_initialized():
        return value
    return sum_over_processes(value) / distributed.get_world_size()


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient; the tensor itself in a single process."""
    return _reduce(value, distributed.ReduceOp.SUM)


def max_over_processes(value: Tensor) -> Tensor:
    """Elementwise maximum of a tensor over all processes, without gradient; the tensor itself in a single process."""
    return _reduce(value, distributed.ReduceOp.MAX)


def _reduce(value: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
    if not distributed.is_initialized():
        return value
    total = value.detach().clone()
    distributed.all_reduce(total, operation)
    return total


def gather_over_processes(value: Tensor) -> Tensor:
    """Concatenate the tensors [n, ...] of all processes, by rank, to [processes * n, ...]; without gradient."""
    if not distributed.is_initialized():
        return value.detach()
    parts = [torch.empty_like(value) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


def rank_and_count() -> tuple[int, int]:
    """Rank of this process, and number of processes."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextlib.contextmanager
def main_first(processes: Processes) -> Iterator[None]:
    """Run the block in the main process first, then in the others; a UserError of the main one is raised in all."""
    failure: list[str | None] = [None]
    if processes.count > 1 and not processes.main:
        distributed.broadcast_object_list(failure)
        if failure[0] is not None:
            raise UserError(failure[0])
    try:
        yield
    except UserError as error:
        failure = [str(error)]
        raise
    finally:
        if processes.count > 1 and processes.main:
            distributed.broadcast_object_list(failure)
