"""What a run has written into its folder by now, read while it may still be writing."""

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
"""A distilled student beside its teacher, where the run has ended with that."""

Line = dict[str, Any]
"""One object of a JSONL file; its `step` and `epoch` are numbers.

One of the evaluations also has `checkpoint`, a file's name, and `seconds`, how long the run had taken by then; and,
where these succeeded, `attention`, the path of the sheet in the run's folder, and `knn`, accuracies of 0 to 1 by k (as
text), with `knn_images`, how many were tested.
"""


@dataclass(frozen=True)
class RunFolder:
    """What is in a run's folder."""

    path: Path
    recipe_text: str
    recipe: dict[str, Any]
    """As resolved; empty where it cannot be read."""
    environment: dict[str, Any]
    log: list[Line]
    evaluations: list[Line]
    """One for each checkpoint, by step."""
    comparison: list[tuple[str, str, str]]
    """Rows of a distilled student beside its teacher; empty where there are none."""
    finished: bool

    @property
    def start_name(self) -> str:
        """What the checkpoint of step 0 is called."""
        backbone = self.recipe.get("backbone")
        pretrained = isinstance(backbone, dict) and backbone.get("pretrained")
        return "start" if self.recipe.get("init") or pretrained else "random ViT (step 0)"

    @property
    def epochs(self) -> float | None:
        """Epochs of the whole run."""
        epochs = self.recipe.get("epochs")
        return epochs if isinstance(epochs, int | float) else None

    @property
    def rebuilt(self) -> Recipe | None:
        """The recipe; None where it is missing, or of another version of this program."""
        try:
            return recipe_from_dict(self.recipe) if self.recipe else None
        except (TypeError, ValueError, UserError):
            return None


def read_run(path: Path) -> RunFolder:
    """Read a run's folder; what is missing or cut is left out.

    Raises UserError if there is neither recipe nor log.
    """
    if not (path / RECIPE_NAME).is_file() and not (path / LOG_NAME).is_file():
        raise UserError(f"{path} is not the folder of a run: it holds neither {RECIPE_NAME} nor {LOG_NAME}.")
    finished = (path / FINISHED_NAME).exists()  # first, so that everything a finished run wrote is seen
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
    """The lines of a run's evaluations by step, the last one of each checkpoint."""
    lines = read_lines(path / EVALUATIONS_NAME)
    last = {line["checkpoint"]: line for line in lines if "checkpoint" in line}
    return sorted(last.values(), key=lambda line: line["step"])


def read_lines(file: Path) -> list[Line]:
    """The lines of a JSONL file, none if it is missing; lines that are cut are passed over."""
    lines = [parse_json(text) for text in read_text(file).splitlines()]
    return [
        line
        for line in lines
        if isinstance(line, dict) and all(isinstance(line.get(name), int | float) for name in ("step", "epoch"))
    ]


def parse_json(text: str) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_text(file: Path) -> str:
    """Contents of a text file, which may end in the middle of a character; empty if it is missing."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def knn_score(evaluation: Line) -> float | None:
    """The k-NN accuracy, 0 to 1, that checkpoints are compared by: k = 20, else the largest k; None without k-NN."""
    accuracies = evaluation.get("knn")
    if not accuracies:
        return None
    return float(accuracies.get("20", accuracies[max(accuracies, key=int)]))


def best_evaluation(evaluations: list[Line]) -> Line | None:
    """The evaluation of highest k-NN accuracy, the first of equal ones; None where k-NN was not run."""
    scored = [(score, line) for line in evaluations if (score := knn_score(line)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None
