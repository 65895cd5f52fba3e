"""Reading a run's folder, even while the run is still writing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dino_ros.errors import UserError
from dino_train.recipes import Recipe
from dino_train.recipes.files import recipe_from_dict
from dino_train.runs.log import ENVIRONMENT_NAME, FINISHED_NAME, LOG_NAME, RECIPE_NAME

EVALUATIONS_NAME = "evaluations.jsonl"
COMPARISON_NAME = "comparison.json"
"""The comparison of a distilled student with its teacher, once the run has made it."""

Line = dict[str, Any]
"""One object of a JSONL file; its `step` and `epoch` are numbers.

An evaluation also has `checkpoint`, a file name, and `seconds`, the training time by then; and, if they succeeded,
`attention`, the path of the sheet relative to the run's folder, and `knn`, accuracies of 0 to 1 by k (as text), with
`knn_images`, the number of images tested.
"""


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run's folder."""

    path: Path
    recipe_text: str
    recipe: dict[str, Any]
    """As resolved; empty if it cannot be read."""
    environment: dict[str, Any]
    log: list[Line]
    evaluations: list[Line]
    """One per checkpoint, by step."""
    comparison: list[tuple[str, str, str]]
    """Rows of the comparison of a distilled student with its teacher: name, student, teacher; empty without one."""
    finished: bool

    @property
    def start_name(self) -> str:
        """What to call the checkpoint of step 0."""
        backbone = self.recipe.get("backbone")
        pretrained = isinstance(backbone, dict) and backbone.get("pretrained")
        return "start" if self.recipe.get("init") or pretrained else "random ViT (step 0)"

    @property
    def epochs(self) -> float | None:
        """Number of epochs of the whole run."""
        epochs = self.recipe.get("epochs")
        return epochs if isinstance(epochs, int | float) else None

    @property
    def rebuilt(self) -> Recipe | None:
        """The recipe; None if it is missing, or was written by another version of this program."""
        try:
            return recipe_from_dict(self.recipe) if self.recipe else None
        except (TypeError, ValueError, UserError):
            return None


def read_run(path: Path) -> RunFolder:
    """Read a run's folder, leaving out what is missing or cut short.

    Raises UserError if there is neither recipe nor log.
    """
    if not (path / RECIPE_NAME).is_file() and not (path / LOG_NAME).is_file():
        raise UserError(
            f"{path} is not the folder of a run: it has neither {RECIPE_NAME} nor {LOG_NAME}: give "
            "what was --out of `dino-train pretrain` or `distill`."
        )
    finished = (path / FINISHED_NAME).exists()  # checked first, so that everything a finished run wrote is read
    recipe_text = read_text(path / RECIPE_NAME)
    try:
        recipe = yaml.safe_load(recipe_text)
    except yaml.YAMLError:
        recipe = None
    environment = parse_json(read_text(path / ENVIRONMENT_NAME))
    return RunFolder(
        path,
        recipe_text,
        recipe if isinstance(recipe, dict) else {},
        environment if isinstance(environment, dict) else {},
        read_lines(path / LOG_NAME),
        read_evaluations(path),
        [tuple(row) for row in parse_json(read_text(path / COMPARISON_NAME) or "{}").get("rows", [])],
        finished,
    )


def read_evaluations(path: Path) -> list[Line]:
    """A run's evaluations by step; of several of one checkpoint, the last."""
    lines = read_lines(path / EVALUATIONS_NAME)
    last = {line["checkpoint"]: line for line in lines if "checkpoint" in line}
    return sorted(last.values(), key=lambda line: line["step"])


def read_lines(file: Path) -> list[Line]:
    """The lines of a JSONL file, none if it is missing, without those that were cut short."""
    lines = [parse_json(text) for text in read_text(file).splitlines()]
    return [
        line
        for line in lines
        if isinstance(line, dict) and all(isinstance(line.get(name), int | float) for name in ("step", "epoch"))
    ]


def parse_json(text: str) -> Any:
    """Parse a JSON text; returns None if it is invalid."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_text(file: Path) -> str:
    """Read a text file, which may end in the middle of a character; returns "" if it is missing."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def knn_score(evaluation: Line) -> float | None:
    """The k-NN accuracy, 0 to 1, by which checkpoints are compared: for k = 20 or else the largest k; None without."""
    accuracies = evaluation.get("knn")
    if not accuracies:
        return None
    return float(accuracies.get("20", accuracies[max(accuracies, key=int)]))


def best_evaluation(evaluations: list[Line]) -> Line | None:
    """The evaluation of highest k-NN accuracy, the first if several tie; None if none has k-NN."""
    scored = [(score, line) for line in evaluations if (score := knn_score(line)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None
