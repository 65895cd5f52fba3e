"""Running the recipes of a comparison one after another, each with the same budget and in a process of its own."""

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
from dino_ros.perception.progress import duration
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
"""Steps over which a recipe's speed is measured."""


@dataclass(frozen=True)
class SharedSettings:
    """What all runs of a comparison share."""

    data: DataConfig
    knn: str
    """Folder with `train/<class>/` and `val/<class>/` images."""
    machine: MachineConfig
    images: int | None
    """Images that each run sees, repetitions included; None to see as many as `minutes` allow."""
    minutes: float | None
    """Training time of each run, without evaluations; converted to steps by a trial of TRIAL_STEPS."""
    points: int = 6
    """Number of evaluations, evenly spaced, in addition to the one at the start."""


def run_all(recipes: Mapping[str, Recipe], shared: SharedSettings, out: Path, after_each: Callable[[], None]) -> None:
    """Run every recipe in a folder of its name in `out`, skipping finished runs and resuming interrupted ones.

    A run that fails is reported in a warning, and the next one starts. `after_each` is called after every run. Raises
    UserError if `out` holds a different comparison.
    """
    frames = open_frames(shared.data.paths, shared.data.topics, {}, SelectionParameters())
    for name, recipe in recipes.items():
        check_same(out / name, recipe.resolve(len(frames))[0])
    keep_settings(shared, out / SETTINGS_NAME)
    started = time.monotonic()
    for number, (name, recipe) in enumerate(recipes.items()):
        steps_per_epoch = EpochSampler(frames, recipe).steps_per_epoch
        mean = (time.monotonic() - started) / max(number, 1)
        left = f", {duration(mean * (len(recipes) - number))} left if all take as long" if number else ""
        log.info("Run %d of %d, %s: %s%s", number + 1, len(recipes), name, out / name, left)
        try:
            run_one(recipe, shared, out / name, steps_per_epoch)
        except (UserError, BrokenProcessPool) as error:  # the process was killed, for example for memory
            log.warning("%s failed: %s", name, error)
        after_each()


def keep_settings(shared: SharedSettings, path: Path) -> None:
    """Write the shared settings to `path`; raises UserError if it holds different ones."""
    settings = dataclasses.asdict(shared)
    del settings["machine"]
    before = parse_json(read_text(path)) or settings
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"{path.parent} holds a comparison with {name} = {before.get(name)}, not {value}: give the same, or "
                "another folder with --out."
            )
    write_whole(path, json.dumps(settings, indent=2).encode())


def check_same(run: Path, recipe: Recipe) -> None:
    """Raise UserError if a folder holds a run of another recipe; `epochs` may differ, as the budget sets it."""
    if not (run / RECIPE_NAME).is_file():
        return
    started = read_run(run).rebuilt
    if started is None or dataclasses.replace(recipe, epochs=started.epochs) != started:
        raise UserError(f"{run} holds a run of another recipe: use the same, or choose another folder with --out.")


def run_one(recipe: Recipe, shared: SharedSettings, out: Path, steps_per_epoch: int) -> None:
    """Run one recipe: start it, resume it, or skip it if it has finished and is evaluated."""
    if (out / FINISHED_NAME).exists() and len(read_evaluations(out)) > shared.points:
        return
    if (out / LAST_NAME).is_file():
        in_own_process(trainer.resume_run, out)
        return
    for unfinished in out.glob("epoch_*.pt"):  # of a run interrupted before it could be resumed
        unfinished.unlink()
    if not steps_per_epoch:
        raise UserError(f"The data has fewer images than the recipe's batch_size, {recipe.batch_size}: lower it there.")
    images = shared.images
    if images is None:
        assert shared.minutes is not None
        speed = in_own_process(images_per_second, recipe, shared.data, shared.machine, steps_per_epoch)
        images = round(speed * 60 * shared.minutes)
        log.info("%.1f images/s: %d images in %g minutes", speed, images, shared.minutes)
    epochs = max(images // recipe.batch_size, 1) / steps_per_epoch
    evaluation = EvaluationConfig(every=epochs / shared.points, while_training=False, knn=shared.knn)
    recipe = dataclasses.replace(recipe, epochs=epochs)
    in_own_process(trainer.train, recipe, shared.data, out, shared.machine, evaluation)


def images_per_second(recipe: Recipe, data: DataConfig, machine: MachineConfig, steps_per_epoch: int) -> float:
    """Measure a recipe's speed in a trial run that leaves nothing behind."""
    trial = dataclasses.replace(recipe, epochs=TRIAL_STEPS / steps_per_epoch)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(trial, data, Path(folder) / "trial", machine, EvaluationConfig(every=0))
        lines = read_lines(Path(folder) / "trial" / LOG_NAME)
    return float(statistics.median(line["images_per_second"] for line in lines[1:]))


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process, which has its own peak memory and ends when this one is gone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=end_with, initargs=(os.getpid(),)) as executor:
        return executor.submit(function, *arguments).result()


def end_with(parent: int) -> None:
    """Log messages in this process, and end it when its parent is gone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dino_train").setLevel(logging.INFO)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
