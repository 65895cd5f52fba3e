"""A run's progress in the terminal: a bar and the newest numbers of the log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from dino_ros.perception.progress import duration

log = logging.getLogger(__name__)

SECONDS_TO_FIRST_LINE = 10.0
"""After which the first line says how long the run takes."""
SECONDS_BETWEEN_LINES = 60.0
"""Interval of the lines that are logged instead of a bar where there is no terminal."""

LINE = {
    "loss": "loss {:.2f}",
    "teacher_entropy": " = entropy {:.2f}",
    "kl": " + KL {:.2f}",
    "contrastive_accuracy": ", accuracy {:.0%}",
    "embedding_std": ", embedding std {:.2f}",
    "cosine": ", patch cosine {:.3f}",
    "cls_cosine": ", CLS cosine {:.3f}",
    "attention_kl": ", attention KL {:.3f}",
    "lr": ", lr {:.1e}",
    "teacher_temp": ", temperature {:.3f}",
    "momentum_teacher": ", EMA {:.4f}",
    "gradient_norm": ", gradient {:.2f}",
    "images_per_second": ", {:.0f} images/s",
}
"""The fields of a line of the log that are shown, if it has them, and how."""

Advance = Callable[[Mapping[str, float]], None]


class RunProgress(Progress):
    """A bar with the time left, and below it a text that wraps if the terminal is narrow."""

    line = "starting"

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.line, style="dim")


@contextlib.contextmanager
def progress_bar(first_step: int, steps: int, shown: bool) -> Iterator[Advance]:
    """Show a bar; yields a function to call after each step with the newest line of the log, {} before the first."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with RunProgress(*columns, console=console, disable=not shown) as progress:
        task = progress.add_task("pretrain", total=steps, completed=first_step)
        due = time.monotonic() + SECONDS_TO_FIRST_LINE

        def advance(metrics: Mapping[str, float]) -> None:
            nonlocal due
            progress.line = summary(metrics)
            progress.advance(task)
            left = progress.tasks[0].time_remaining
            if left and shown and not console.is_terminal and time.monotonic() > due:
                due = time.monotonic() + SECONDS_BETWEEN_LINES
                done, numbers = progress.tasks[0].completed, f", {summary(metrics)}" if metrics else ""
                log.info("step %d of %d, %s left%s", done, steps, duration(left), numbers)

        yield advance


def summary(metrics: Mapping[str, float]) -> str:
    """The most important numbers of a line of the log, as text."""
    if not metrics:
        return "starting"
    return "".join(text.format(metrics[name]) for name, text in LINE.items() if name in metrics)
