"""Whether a run learns: one definition for the warnings of a running run and for the report, in plain words.

The two ways to collapse are those of Caron et al. 2021, section 5.3: the output is uniform for every image, or it is
the same for every image.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from dino_train.recipes import Recipe
from dino_train.runs.folder import Line, RunFolder, best_evaluation, knn_score
from dino_train.runs.log import STEPS_BETWEEN_LINES

WINDOW = 30
"""Most lines of the log that must agree before a run counts as failing; of shorter runs it is SHARE of their lines."""
SHARE = 0.1
FEWEST = 3
"""Fewest lines that must agree."""
START = 0.2
"""Share of a run after which failures are warned of: the first steps of a healthy run look uniform."""
RECENT = 10
"""Lines of the log that the numbers shown are means of."""
UNIFORM = 0.98
"""Share of the chance loss above which nothing is learned."""
SAME_OUTPUT = 0.1
"""Nats by which the entropy of the mean output exceeds that of one output (their mutual information with the image),
below which the output is the same for every image."""
SAME_PROJECTION = 0.1
"""Standard deviation of the projections, 1 for random directions, below which they are the same for every image."""
LOW_RANK = 2.0
"""Effective rank of the CLS tokens below which they lie on a line."""


class Health(Enum):
    """What the last lines of a log say of a run."""

    LEARNING = "learning"
    NOT_FINITE = "not finite"
    """The last loss is NaN or infinite."""
    UNIFORM = "uniform"
    """The loss stays at that of chance."""
    COLLAPSED = "collapsed"
    """Output or projection is the same for every image."""
    LOW_RANK = "low rank"
    """The embeddings span hardly more than one direction."""


def window(lines: float) -> int:
    """How many lines of the log must agree, in a run of so many."""
    return min(max(round(SHARE * lines), FEWEST), WINDOW)


def classify(log: Iterable[Mapping[str, Any]], chance_loss: float | None) -> Health:
    """Classify some lines of a log; each must show the same failure.

    A line shows only the failures that its fields can tell; without `chance_loss` none is uniform.
    """
    lines = list(log)
    if not lines:
        return Health.LEARNING
    if "loss" in lines[-1] and not math.isfinite(number(lines[-1], "loss")):
        return Health.NOT_FINITE
    if chance_loss and all(number(line, "loss") > UNIFORM * chance_loss for line in lines):
        return Health.UNIFORM
    if all(number(line, "marginal_entropy") - number(line, "teacher_entropy") < SAME_OUTPUT for line in lines):
        return Health.COLLAPSED
    if all(number(line, "embedding_std") < SAME_PROJECTION for line in lines):
        return Health.COLLAPSED
    if all(number(line, "effective_rank") < LOW_RANK for line in lines):
        return Health.LOW_RANK
    return Health.LEARNING


def describe(health: Health, line: Mapping[str, Any], recipe: Recipe | None) -> str:
    """One sentence on a failing run, with the numbers of its last line of the log."""
    chance_loss, largest = (recipe.chance_loss, recipe.largest_entropy) if recipe else (None, None)
    if health is Health.NOT_FINITE:
        return "The loss is no longer finite."
    if health is Health.UNIFORM:
        return (
            f"The loss, {line['loss']:.2f}, stays at that of chance, {chance_loss:.2f}, or above: nothing is learned."
        )
    if health is Health.LOW_RANK:
        return f"The embeddings have collapsed: their effective rank is {line['effective_rank']:.1f}."
    if math.isfinite(number(line, "marginal_entropy")):
        most = f" (ln K = {largest:.2f})" if largest else ""
        return (
            "The run has collapsed: the teacher gives every image the same output. The entropy of its mean output is "
            f"{line['marginal_entropy']:.2f} nats{most}, that of one output {line['teacher_entropy']:.2f}."
        )
    return (
        "The run has collapsed: the projections of all images are nearly the same. Their standard deviation is "
        f"{line['embedding_std']:.2f}; that of random directions is 1."
    )


def remedy(health: Health, recipe: Recipe) -> str:
    """What to try, as the end of a sentence."""
    return {
        Health.NOT_FINITE: "lower --optimizer.lr or --optimizer.clip_grad, or give --machine.precision fp32",
        Health.UNIFORM: recipe.when_uniform,
        Health.COLLAPSED: recipe.when_collapsed,
        Health.LOW_RANK: Recipe.when_collapsed,  # whatever the method
        Health.LEARNING: "",
    }[health]


class HealthMonitor:
    """Warns while a run of so many steps trains: once for each way in which it fails."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.recipe = recipe
        self.start = START * steps
        self.lines: deque[Mapping[str, Any]] = deque(maxlen=window(steps / STEPS_BETWEEN_LINES))
        self.seen = {Health.LEARNING}

    def check(self, line: Mapping[str, Any]) -> str | None:
        """Take the next line of the log; returns a warning if the last lines now agree on a failure not yet seen."""
        self.lines.append(line)
        health = classify(self.lines, self.recipe.chance_loss)
        if len(self.lines) < (self.lines.maxlen or 0) or line["step"] < self.start or health in self.seen:
            return None
        self.seen.add(health)
        return f"{describe(health, line, self.recipe)} Try this: {remedy(health, self.recipe)}."


def health_summary(run: RunFolder) -> str:
    """A paragraph on a run: is it learning, and how does its k-NN compare with that of its start?"""
    return " ".join(sentence for sentence in (learning(run), knn(run)) if sentence) or "There are no numbers yet."


def learning(run: RunFolder) -> str:
    """What the log says: a failure and what to try, or the numbers that show that the run learns."""
    if not run.log:
        return ""
    recipe = run.rebuilt
    chance = recipe.chance_loss if recipe else None
    health = classify(run.log[-window(len(run.log)) :], chance)
    mean_loss = recent(run.log, "loss")
    if health is Health.LEARNING and chance and mean_loss and mean_loss > UNIFORM * chance:
        health = Health.UNIFORM  # as a whole, if not in each line
    if health is not Health.LEARNING:
        advice = f" If this persists, try this: {remedy(health, recipe)}." if recipe else ""
        return describe(health, {**run.log[-1], "loss": mean_loss}, recipe) + advice
    if recent(run.log, "teacher_entropy") is not None and recent(run.log, "marginal_entropy") is not None:
        return entropies(run.log, recipe.largest_entropy if recipe else None)
    return loss_and_agreement(run.log, chance)


def entropies(log: list[Line], largest: float | None) -> str:
    """The entropies of a method whose output is a distribution, in nats; `largest` is that of a uniform one."""
    one, mean, kl = (recent(log, field) for field in ("teacher_entropy", "marginal_entropy", "kl"))
    most = f" (at most ln K = {largest:.1f})" if largest else ""
    text = f"The teacher tells images apart: the entropy of its mean output is {mean:.1f} nats{most}, "
    text += f"that of one output {one:.1f}."
    return text if kl is None else f"{text} The student is {kl:.2f} nats (KL) away from it."


def loss_and_agreement(log: list[Line], chance: float | None) -> str:
    """The loss, and what else the method logs of its projections or of a student's agreement with its teacher."""
    loss = recent(log, "loss")
    if loss is None:
        return ""
    text = f"The loss is {loss:.2f}; it began at {first(log, 'loss'):.2f}"
    text += f", and chance is {chance:.2f}." if chance else "."
    if (accuracy := recent(log, "contrastive_accuracy")) is not None:
        text += f" {accuracy:.1%} of the queries are nearest to their own key."
    if (deviation := recent(log, "embedding_std")) is not None:
        text += f" The projections tell images apart: their standard deviation is {deviation:.2f} (random: 1)."
    cosine, divergence = recent(log, "cosine"), recent(log, "attention_kl")
    if cosine is not None and divergence is not None:
        text += (
            f" The student's patch tokens have a cosine of {cosine:.3f} with the teacher's, and its attention is "
            f"{divergence:.2f} nats (KL) away."
        )
    return text


def knn(run: RunFolder) -> str:
    """The newest k-NN accuracy, compared with that of the start and the best."""
    scored = [line for line in run.evaluations if knn_score(line) is not None]
    best = best_evaluation(scored)
    if best is None:
        return ""
    newest, start = scored[-1], scored[0] if scored[0]["step"] == 0 else None
    now, images = knn_score(newest) or 0.0, newest["knn_images"]
    text = f"k-NN classifies {now:.1%} of {images:,} labeled images correctly"
    if newest is start:
        return f"{text} with the {run.start_name}, before any training."
    text += f" at epoch {newest['epoch']:g}"
    if start is not None:
        before = knn_score(start) or 0.0
        text += f", {before:.1%} with the {run.start_name}: {compared(now, before, images)}"
    if best is not newest and best is not start:
        text += f"; the best was {knn_score(best) or 0.0:.1%} at epoch {best['epoch']:g}"
    return text + "."


def compared(now: float, before: float, images: int) -> str:
    """Whether an accuracy differs from that of the start by more than two standard errors of the difference."""
    error = math.hypot(standard_error(now, images), standard_error(before, images))
    if abs(now - before) <= 2 * error:
        return "a difference too small to show on so few images"
    return "better than its start" if now > before else "worse than its start"


def standard_error(accuracy: float, images: int) -> float:
    """Binomial standard error of an accuracy of 0 to 1, measured on so many images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def recent(log: list[Line], field: str) -> float | None:
    """Mean of a field's finite values over the last RECENT lines; None without any."""
    values = [value for line in log[-RECENT:] if math.isfinite(value := number(line, field))]
    return sum(values) / len(values) if values else None


def first(log: list[Line], field: str) -> float:
    """First finite value of a field."""
    return next(value for line in log if math.isfinite(value := number(line, field)))


def number(line: Mapping[str, Any], field: str) -> float:
    """A field of a line of the log; NaN if it is missing or not a number."""
    value = line.get(field)
    return float(value) if isinstance(value, int | float) else math.nan
