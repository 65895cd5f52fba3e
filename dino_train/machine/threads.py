"""How many threads a command takes on a CPU: those of torch wait for one another, so one without a core delays all."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dino_train.machine.rank import is_main

log = logging.getLogger(__name__)

LOADAVG = Path("/proc/loadavg")
SPINS = 3000
"""Turns of the loop in which a thread waits before it sleeps: some tens of microseconds."""
WORTH_A_THREAD = 1e9
"""Floating-point operations of a step; with fewer, a second thread is waited for longer than it helps."""


def choose_threads(threads: int | None, operations: float) -> int:
    """Let torch use this many threads, by default as many as cores are free and a step is worth; returns how many.

    A step takes about so many floating-point `operations`.
    """
    import torch

    if not threads and (free := threads_to_take("--machine.threads takes")):
        threads = min(free, max(1, round(operations / WORTH_A_THREAD)))
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    return threads


def sleep_soon() -> None:
    """Let threads of torch, which is not imported yet, soon sleep when they wait for one another; child processes too.

    By default they wait in a loop for milliseconds, which keeps a core from the very thread that is waited for once
    other programs run. At SPINS the steps of a run take as long on an idle machine, and a third of the time beside
    others (benchmarks/results/training.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def leave_busy_cores() -> None:
    """Let torch, which is not imported yet, use as many threads as cores are free, in child processes too."""
    if threads := threads_to_take("OMP_NUM_THREADS=N before the command takes"):
        os.environ["OMP_NUM_THREADS"] = str(threads)


def threads_to_take(option: str) -> int | None:
    """As many threads as cores are free; logs why if it is not all of them, and which `option` takes more.

    None where $OMP_NUM_THREADS, which torchrun sets too, has decided.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores, load = len(os.sched_getaffinity(0)), busy_cores(LOADAVG.read_text())
    threads = free_threads(cores, load, os.cpu_count() or cores)
    if threads < cores and is_main():
        log.info("Using %d of %d cores, since other programs keep %.1f busy: %s more.", threads, cores, load, option)
    return threads


def free_threads(cores: int, load: float, all_cores: int) -> int:
    """Of `cores` that a process may use, on a machine of `all_cores`, how many `load` busy ones leave; at least 1."""
    return max(1, round(cores * (1 - load / all_cores)))


def busy_cores(loadavg: str) -> float:
    """Programs that want a core, beside this one, from /proc/loadavg.

    The smaller of the last minute's mean and of now: what has just ended is no load, nor is what runs for a moment.
    """
    mean, _, _, running, _ = loadavg.split()
    return min(float(mean), max(int(running.partition("/")[0]) - 1, 0))
