"""Whether a run learns, in plain words."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Literal

from dino_train.recipes import Recipe
from dino_train.runs.folder import Line, RunFolder, best_evaluation, knn_score

RECENT = 10
"""Lines of the log that count as now."""
UNIFORM = 0.98
"""Share of ln K from which an entropy is that of an output that says nothing."""
COLLAPSED_EMBEDDING_STD = 0.1
"""Spread of projections, 1 as of random ones, below which they are the same for all images."""
TOLD_APART = 0.1
"""Nats by which the entropy of the teacher's mean output is above that of one output where it tells images apart."""


def health_summary(run: RunFolder) -> str:
    """A paragraph about the run, made from its numbers: is it learning, and how good is it against its start?"""
    return " ".join(sentence for sentence in (learning(run), knn(run)) if sentence) or "There are no numbers yet."


def learning(run: RunFolder) -> str:
    """What loss and health say, in the terms of the run's method: entropies, spread or agreement."""
    if not run.log:
        return ""
    if not math.isfinite(run.log[-1].get("loss", 0.0)):
        return "The loss is not a number any more: lower the learning rate, or raise the teacher's temperature."
    if recent(run.log, "teacher_entropy") is not None and recent(run.log, "marginal_entropy") is not None:
        return entropies(run)
    if (loss := recent(run.log, "loss")) is None:
        return ""
    chance = run.rebuilt.chance_loss if run.rebuilt else None
    text = f"The loss is {loss:.2f}, after {first(run.log, 'loss'):.2f} in the first line of the log"
    text += f"; that of chance is {chance:.2f}." if chance else "."
    if chance and loss > UNIFORM * chance:
        text += f" Nothing is learnt; where that stays so{remedy(run, 'when_uniform')}."
    if (found := recent(run.log, "contrastive_accuracy")) is not None:
        text += f" {percent(found)} of the queries find their key."
    if (value := recent(run.log, "embedding_std")) is not None:
        text += f" The spread of the projections is {value:.2f} (1 as of random ones)"
        collapsed = f": the run has collapsed{remedy(run, 'when_collapsed')}."
        text += collapsed if value < COLLAPSED_EMBEDDING_STD else ", so they tell images apart."
    cosine, divergence = recent(run.log, "cosine"), recent(run.log, "attention_kl")
    if cosine is not None and divergence is not None:
        text += (
            f" The student's patch tokens have a cosine of {cosine:.3f} with the teacher's, and its attention is "
            f"{divergence:.2f} nats (KL) away from it."
        )
    return text


def entropies(run: RunFolder) -> str:
    """What entropies say. They are in nats; `marginal_entropy` is that of the teacher's mean output."""
    loss, one, mean, kl = (recent(run.log, field) for field in ("loss", "teacher_entropy", "marginal_entropy", "kl"))
    top = (run.rebuilt.chance_loss if run.rebuilt else None) or math.inf
    assert one is not None
    assert mean is not None
    numbers = f"the entropy of its mean output is {mean:.1f} nats, of one output {one:.1f}"
    if one > UNIFORM * top:
        text = f"The teacher's output is uniform: its entropy is {one:.2f} of at most ln K = {top:.2f}"
        text += f", and the loss sits at {loss:.2f}" if loss is not None else ""
        return f"{text}. Nothing is learnt; where that stays so{remedy(run, 'when_uniform')}."
    if mean - one < TOLD_APART:
        return (
            f"The teacher says the same of every image: {numbers}. Nothing is learnt; where that stays so, the run "
            f"has collapsed{remedy(run, 'when_collapsed')}."
        )
    text = f"The teacher tells images apart: {numbers}"
    text += f" (at most ln K = {top:.1f})." if math.isfinite(top) else "."
    if kl is not None:
        text += f" The student is {kl:.2f} nats (KL) away from it."
    return text


def remedy(run: RunFolder, name: Literal["when_uniform", "when_collapsed"]) -> str:
    """What the run's method has to try, to end a sentence with."""
    return f": {getattr(run.rebuilt, name)}" if run.rebuilt else ""


def knn(run: RunFolder) -> str:
    """What k-NN says."""
    scored = [line for line in run.evaluations if knn_score(line) is not None]
    best = best_evaluation(scored)
    if best is None:
        return ""
    newest, start = scored[-1], scored[0] if scored[0]["step"] == 0 else None
    now, images = knn_score(newest) or 0.0, newest["knn_images"]
    text = f"k-NN on {images:,} labeled images finds {percent(now)}"
    if newest is start:
        return f"{text} for the {run.start_name}, where the run begins."
    text += f" at epoch {newest['epoch']:g}"
    if start is not None:
        before = knn_score(start) or 0.0
        text += f", {percent(before)} for the {run.start_name}: {compared(now, before, images)}"
    if best is not newest and best is not start:
        text += f"; the best was {percent(knn_score(best) or 0.0)} at epoch {best['epoch']:g}"
    return text + "."


def compared(now: float, before: float, images: int) -> str:
    """Whether an accuracy differs from that of the start by more than two standard errors of the difference."""
    error = math.hypot(standard_error(now, images), standard_error(before, images))
    if abs(now - before) <= 2 * error:
        return "no difference that so few images can show"
    return "better than its start" if now > before else "worse than its start"


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy of 0 to 1 on so many images (binomial)."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def recent(log: list[Line], field: str) -> float | None:
    """Mean of a field over the last lines, where it is logged and finite."""
    values = [value for line in log[-RECENT:] if (value := finite(line, field)) is not None]
    return sum(values) / len(values) if values else None


def first(log: list[Line], field: str) -> float:
    """First finite value of a field."""
    return next(value for line in log if (value := finite(line, field)) is not None)


def finite(line: Line, field: str) -> float | None:
    """A logged number, where it is one."""
    value = line.get(field)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def percent(share: float) -> str:
    """A share of 0 to 1 as a percentage with one decimal."""
    return f"{share:.1%}".replace("%", " %")


class HealthMonitor:
    """Tells, once each, when a run goes wrong in one of the ways it is known to.

    The two collapses (Caron et al. 2021, section 5.3): the output is uniform for every image, which is seen from the
    loss, or it is the same for every image, which is seen from the entropy of the output and of its mean, or from the
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
                f"The teacher gives every image the same output (entropy {metrics['teacher_entropy']:.2f}, of its "
                f"mean {metrics['marginal_entropy']:.2f} of at most {chance:.2f}): it has collapsed. To try: "
                f"{self.recipe.when_collapsed}."
            )
        elif max(line.get("embedding_std", 1.0) for line in self.recent) < COLLAPSED_EMBEDDING_STD:
            warning = (
                f"The projections of all images are the same (embedding std {metrics['embedding_std']:.2f}, 1 as of "
                f"random ones): they have collapsed. To try: {self.recipe.when_collapsed}."
            )
        elif max(line["effective_rank"] for line in self.recent) < 2:
            warning = (
                f"The embeddings fill {metrics['effective_rank']:.1f} directions: they have collapsed. To try: lower "
                "optimizer.lr or optimizer.weight_decay_end."
            )
        else:
            return None
        kind = warning[:20]
        if kind in self.said:
            return None
        self.said.add(kind)
        return warning


def told_apart(line: Mapping[str, float]) -> float:
    """Nats by which the entropy of the teacher's mean output is above that of one output: it tells images apart.

    Infinite for a method that logs neither.
    """
    return float(line.get("marginal_entropy", math.inf) - line.get("teacher_entropy", 0.0))
