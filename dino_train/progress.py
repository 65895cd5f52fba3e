"""What a person sees of a run while it goes on: a line that moves, and warnings in plain words."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
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
    "cosine": ", cosine of patches {:.3f}",
    "cls_cosine": ", of CLS {:.3f}",
    "attention_kl": ", KL of attention {:.3f}",
    "lr": ", lr {:.1e}",
    "teacher_temperature": ", temperature {:.3f}",
    "teacher_momentum": ", EMA {:.4f}",
    "gradient_norm": ", gradient {:.2f}",
    "pictures_per_second": ", {:.0f} pictures/s",
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


class HealthMonitor:
    """Tells, once each, when a run goes wrong in one of the ways it is known to.

    The two collapses (Caron et al. 2021, section 5.3): the teacher's output is uniform for every picture, or it is the
    same few dimensions for every picture. Both are seen from the entropy of the output and of its mean. `window` log
    lines must agree before anything is said. `largest_entropy` is None for a method whose output has none: then the
    embeddings alone are looked at.
    """

    def __init__(self, largest_entropy: float | None, window: int = 30) -> None:
        self.largest_entropy = largest_entropy
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.said: set[str] = set()

    def check(self, metrics: Mapping[str, float]) -> str | None:
        """Take one line of the log; returns a warning where there is a new reason for one."""
        self.recent.append(metrics)
        if len(self.recent) < (self.recent.maxlen or 0):
            return None
        top = self.largest_entropy
        if top is not None and min(line["loss"] for line in self.recent) > 0.98 * top:
            warning = (
                f"The loss stays at ln K = {top:.2f}: the teacher's output is uniform and nothing is learnt. Lower "
                "dino.teacher_temperature_start and dino.teacher_temperature, or make crops of a picture more alike "
                "(crops.global_scale, crops.colour); lower dino.out_dim for small data."
            )
        elif top is not None and max(map(told_apart, self.recent)) < 0.02 * top:
            warning = (
                "The teacher gives every picture the same output "
                f"(entropy {metrics['teacher_entropy']:.2f}, of its mean "
                f"{metrics['marginal_entropy']:.2f} of at most {top:.2f}): it has collapsed. Raise "
                "dino.teacher_temperature_start, lower dino.centre_momentum or optimiser.lr."
            )
        elif max(line["effective_rank"] for line in self.recent) < 2:
            warning = (
                f"The embeddings fill {metrics['effective_rank']:.1f} directions: they have collapsed. Lower "
                "optimiser.lr or optimiser.weight_decay_end."
            )
        else:
            return None
        kind = warning[:20]
        if kind in self.said:
            return None
        self.said.add(kind)
        return warning


def told_apart(line: Mapping[str, float]) -> float:
    """Nats by which the entropy of the teacher's mean output is above that of one output: it tells pictures apart."""
    return line["marginal_entropy"] - line["teacher_entropy"]
