"""What a person sees of a run while it goes on: a line that moves, and warnings in plain words."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal, a line is logged this often."""

LINE = {
    "loss": "loss {:.2f}",
    "teacher_entropy": " = entropy {:.2f}",
    "kl": " + KL {:.2f}",
    "contrastive_accuracy": ", found {:.0%}",
    "embedding_std": ", spread {:.2f}",
    "cosine": ", cosine of patches {:.3f}",
    "cls_cosine": ", of CLS {:.3f}",
    "attention_kl": ", KL of attention {:.3f}",
    "lr": ", lr {:.1e}",
    "teacher_temp": ", temperature {:.3f}",
    "momentum_teacher": ", EMA {:.4f}",
    "gradient_norm": ", gradient {:.2f}",
    "images_per_second": ", {:.0f} images/s",
}
"""What is shown of a line of the log, where it has it, and how."""

Advance = Callable[[Mapping[str, float]], None]


class RunProgress(Progress):
    """A bar with the time left, and below it what matters most; the text wraps where the terminal is narrow."""

    line = "starting"

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, then the text."""
        yield from super().get_renderables()
        yield Text(self.line, style="dim")


@contextlib.contextmanager
def progress_bar(first_step: int, steps: int, shown: bool) -> Iterator[Advance]:
    """Show a bar with the time left; yields a function to call after each step with the last line of the log."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with RunProgress(*columns, console=console, disable=not shown) as progress:
        task = progress.add_task("pretrain", total=steps, completed=first_step)
        said_at = time.monotonic()

        def advance(metrics: Mapping[str, float]) -> None:
            nonlocal said_at
            progress.line = summary(metrics)
            progress.advance(task)
            if metrics and shown and not console.is_terminal and time.monotonic() - said_at > SECONDS_BETWEEN_LINES:
                said_at = time.monotonic()
                left = progress.tasks[0].time_remaining or 0.0
                log.info("step %d of %d, %.0f min left, %s", metrics["step"], steps, left / 60, summary(metrics))

        yield advance


def summary(metrics: Mapping[str, float]) -> str:
    """One line of what matters most."""
    if not metrics:
        return "starting"
    return "".join(text.format(metrics[name]) for name, text in LINE.items() if name in metrics)
