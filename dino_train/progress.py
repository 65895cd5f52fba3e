"""What a person sees of a run while it goes on: a line that moves, and warnings in plain words."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from dino_train.recipes import Recipe
from dino_train.verdict import COLLAPSED_SPREAD

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal, a line is logged this often."""

LINE = {
    "loss": "loss {:.2f}",
    "teacher_entropy": " = entropy {:.2f}",
    "kl": " + KL {:.2f}",
    "found": ", found {:.0%}",
    "spread": ", spread {:.2f}",
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

    The two collapses (Caron et al. 2021, section 5.3): the output is uniform for every picture, which is seen from the
    loss, or it is the same for every picture, which is seen from the entropy of the output and of its mean, or from the
    spread of projections. `window` log lines must agree before anything is said.
    """

    def __init__(self, recipe: Recipe, window: int = 30) -> None:
        self.recipe = recipe
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.said: set[str] = set()

    def check(self, metrics: Mapping[str, float]) -> str | None:
        """Take one line of the log; returns a warning where there is a new reason for one."""
        self.recent.append(metrics)
        if len(self.recent) < (self.recent.maxlen or 0):
            return None
        chance = self.recipe.chance_loss
        if chance and min(line["loss"] for line in self.recent) > 0.98 * chance:
            warning = (
                f"The loss stays at that of chance, {chance:.2f}: nothing is learnt. "
                f"To try: {self.recipe.when_uniform}."
            )
        elif chance and max(map(told_apart, self.recent)) < 0.02 * chance:
            warning = (
                f"The teacher gives every picture the same output (entropy {metrics['teacher_entropy']:.2f}, of its "
                f"mean {metrics['marginal_entropy']:.2f} of at most {chance:.2f}): it has collapsed. To try: "
                f"{self.recipe.when_collapsed}."
            )
        elif max(line.get("spread", 1.0) for line in self.recent) < COLLAPSED_SPREAD:
            warning = (
                f"The projections of all pictures are the same (spread {metrics['spread']:.2f}, 1 as of random ones): "
                f"they have collapsed. To try: {self.recipe.when_collapsed}."
            )
        elif max(line["effective_rank"] for line in self.recent) < 2:
            warning = (
                f"The embeddings fill {metrics['effective_rank']:.1f} directions: they have collapsed. To try: lower "
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
    """Nats by which the entropy of the teacher's mean output is above that of one output: it tells pictures apart.

    Infinite for a method that logs neither.
    """
    return line.get("marginal_entropy", math.inf) - line.get("teacher_entropy", 0.0)
