"""How far a loop is and how long it goes on, measured from its first steps: a bar, or lines without a terminal."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from dino_ros.perception.progress import duration

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_TO_FIRST_LINE = 5.0
SECONDS_BETWEEN_LINES = 60.0


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far a loop of `total` steps is, which does `what`; yields a function to call after each step.

    A process that logs no more than warnings, such as the evaluator beside a run, shows nothing, and a worker of
    another one neither.
    """
    shown = log.isEnabledFor(logging.INFO) and multiprocessing.parent_process() is None
    console = Console(stderr=True)
    done, first = 0, 0.0
    due = time.monotonic() + SECONDS_TO_FIRST_LINE
    with Progress(console=console, transient=True, disable=not (console.is_terminal and shown)) as bar:
        task = bar.add_task(escape(what), total=total)

        def advance() -> None:
            nonlocal done, first, due
            bar.advance(task)
            done, now = done + 1, time.monotonic()
            first = first or now  # the first step is slower than others
            if shown and now > due and 1 < done < total and not console.is_terminal:
                left = (now - first) / (done - 1) * (total - done)
                log.info("%s: %d of %d, %s left", what, done, total, duration(left))
                due = now + SECONDS_BETWEEN_LINES

        yield advance


def counted(items: Iterable[Item], advance: Callable[[], None]) -> Iterator[Item]:
    """Pass on items, calling `advance` after each."""
    for item in items:
        yield item
        advance()


def watched(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Pass on `total` items, showing how far the loop over them is."""
    with progress(what, total) as advance:
        yield from counted(items, advance)
