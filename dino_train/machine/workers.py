"""Processes that are forked to use all cores."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkContext, ForkProcess
from typing import TypeVar

import cv2

from dino_ros.errors import UserError
from dino_train.machine.progress import watched
from dino_train.machine.rank import is_main

Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker(ForkProcess):
    """A forked process that never garbage-collects what it inherits.

    ONNX Runtime's and OpenVINO's engines may be among that. Their threads do not exist in the worker, and their
    destructors would wait for them forever.
    """

    def start(self) -> None:
        """Fork; the objects that exist at that moment are exempt from collection in the worker."""
        gc.freeze()
        try:
            super().start()
        finally:
            gc.unfreeze()


class WorkerContext(ForkContext):
    """Starts workers by fork, whatever the Python version's default is.

    A fork server would inherit nothing, but has to import torch first. Measured on two busy cores with one worker: 3 s
    of CPU time, and 4 to 21 s until the first batch instead of 0.1 to 0.3 s, at about the same images/s.
    """

    Process = Worker


def cores() -> int:
    """Cores that this process may use for itself; 1 beside others that do the same."""
    return len(os.sched_getaffinity(0)) if is_main() and multiprocessing.parent_process() is None else 1


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Iterator[Result]:
    """Yield a function's results, in order, from as many workers as there are cores; shows how far `what` is.

    The function, its items and results must be such that can be pickled. What it raises is raised in its place, and
    nothing more is begun. A single item is left to this process. Raises UserError if a worker is killed.
    """
    workers = min(cores(), len(items))
    if workers < 2:
        yield from map(function, items)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the fork: workers would wait for threads that it does not copy
    try:
        with ProcessPoolExecutor(workers, WorkerContext(), _follow_parent) as pool:
            yield from watched(pool.map(function, items), what, len(items))
    except BrokenProcessPool as error:
        raise UserError(
            f"A process was killed while {what}, perhaps for want of memory: run it again, what is done is kept."
        ) from error
    finally:
        cv2.setNumThreads(threads)


def _follow_parent() -> None:
    """End with the process that this one works for, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without the traceback of KeyboardInterrupt
    threading.Thread(target=follow, daemon=True).start()
