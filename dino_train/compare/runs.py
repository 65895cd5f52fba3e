"""Running the recipes of a comparison one after the other, each for the same budget and in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.frames import open_frames
from dino_train.data.loader import EpochSampler
from dino_train.data.selection import SelectionParameters
from dino_train.recipes import Recipe
from dino_train.runs.folder import parse_json, read_evaluations, read_lines, read_run, read_text
from dino_train.runs.log import FINISHED_NAME, LAST_NAME, LOG_NAME, RECIPE_NAME
from dino_train.training import trainer

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SETTINGS_NAME = "settings.json"
TRIAL_STEPS = 60
"""Steps in which a recipe's speed is measured."""


@dataclass(frozen=True)
class Comparison:
    """What all runs have in common."""

    data: DataConfig
    knn: str
    """Folder with `train/<class>/` and `val/<class>/` images."""
    machine: MachineConfig
    images: int | None
    """Images that each run sees, counted as often as they are seen; None for as many as `minutes` suffice for."""
    minutes: float | None
    """Training time of each run, without evaluations: as many steps as a trial of TRIAL_STEPS says."""
    points: int = 6
    """Evaluations at even distances, beside that of the start."""


def run_all(recipes: Mapping[str, Recipe], comparison: Comparison, out: Path, after_each: Callable[[], None]) -> None:
    """Run every recipe into the folder of its name in `out`; what has been run is left, what was cut off goes on.

    A run that fails is named in a warning, and the next one begins. `after_each` is called after every run. Raises
    UserError where the folder holds another comparison.
    """
    frames = open_frames(comparison.data.paths, comparison.data.topics, {}, SelectionParameters())
    for name, recipe in recipes.items():
        check_same(out / name, recipe.resolve(len(frames))[0])
    keep_settings(comparison, out / SETTINGS_NAME)
    for name, recipe in recipes.items():
        steps_per_epoch = EpochSampler(frames, recipe).steps_per_epoch
        log.info("%s: %s", name, out / name)
        try:
            run_one(recipe, comparison, out / name, steps_per_epoch)
        except (UserError, BrokenProcessPool) as error:  # the second: it was killed, as for memory
            log.warning("%s failed: %s", name, error)
        after_each()


def keep_settings(comparison: Comparison, path: Path) -> None:
    """Write what all runs have in common; raises UserError where the folder's runs have something else in common."""
    settings = dataclasses.asdict(comparison)
    del settings["machine"]
    before = parse_json(read_text(path)) or settings
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"{path.parent} holds a comparison whose {name} is {before.get(name)}, not {value}: take that, or "
                "another folder with --out."
            )
    write_whole(path, json.dumps(settings, indent=2).encode())


def check_same(run: Path, recipe: Recipe) -> None:
    """Raise UserError where a run has begun in a folder with another recipe, but for its length if that is measured."""
    if not (run / RECIPE_NAME).is_file():
        return
    begun = read_run(run).rebuilt
    if begun is None or dataclasses.replace(recipe, epochs=begun.epochs) != begun:
        raise UserError(
            f"{run} holds a run of another recipe: give the one it began with, or another folder with --out."
        )


def run_one(recipe: Recipe, comparison: Comparison, out: Path, steps_per_epoch: int) -> None:
    """Run one recipe, go on with it, or leave it where it has ended and is evaluated."""
    if (out / FINISHED_NAME).exists() and len(read_evaluations(out)) > comparison.points:
        return
    if (out / LAST_NAME).is_file():
        in_own_process(trainer.resume_run, out)
        return
    for unfinished in out.glob("epoch_*.pt"):  # of a run that was cut off before there was anything to go on from
        unfinished.unlink()
    if not steps_per_epoch:
        raise UserError(f"The data has fewer images than a batch of {recipe.batch_size}: lower batch_size.")
    images = comparison.images
    if images is None:
        assert comparison.minutes is not None
        speed = in_own_process(images_per_second, recipe, comparison.data, comparison.machine, steps_per_epoch)
        images = round(speed * 60 * comparison.minutes)
        log.info("%.1f images/s: %d images in %g minutes", speed, images, comparison.minutes)
    epochs = max(images // recipe.batch_size, 1) / steps_per_epoch
    evaluation = EvaluationConfig(every=epochs / comparison.points, while_training=False, knn=comparison.knn)
    recipe = dataclasses.replace(recipe, epochs=epochs)
    in_own_process(trainer.pretrain, recipe, comparison.data, out, comparison.machine, evaluation)


def images_per_second(recipe: Recipe, data: DataConfig, machine: MachineConfig, steps_per_epoch: int) -> float:
    """Speed of a recipe's steps, from a trial that leaves nothing behind."""
    trial = dataclasses.replace(recipe, epochs=TRIAL_STEPS / steps_per_epoch)
    with tempfile.TemporaryDirectory() as folder:
        trainer.pretrain(trial, data, Path(folder) / "trial", machine, EvaluationConfig(every=0))
        lines = read_lines(Path(folder) / "trial" / LOG_NAME)
    return float(statistics.median(line["images_per_second"] for line in lines[1:]))


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a fresh process, so that its memory is its own; it ends when this one is gone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=end_with, initargs=(os.getpid(),)) as executor:
        return executor.submit(function, *arguments).result()


def end_with(parent: int) -> None:
    """Show messages in this process, and end it when its parent is gone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dino_train").setLevel(logging.INFO)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
