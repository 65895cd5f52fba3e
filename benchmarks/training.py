"""Speed of pretraining, as ratios to a plain loop of the paper's recipe in the same run.

    python benchmarks/training.py              # the model of robot_bag, and ViT-S/16 at the paper's crops
    python benchmarks/training.py --recipe vit_small_16 --batch 64 --steps 50 --compile    # on a GPU

Prints medians, and the 99th percentile of the time of a step. `plain` is `plain_dino.py`; `dino-train` is the trainer,
started as users start it, without evaluations; `loader` only draws and crops; `step` trains on the same batch over and
over. `of peak` is the rate of a step's floating-point operations as a share of the machine's measured rate in large
matrix products. The last table is that of `bag_reading.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import bag_reading
import numpy as np
import plain_dino
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from dino_ros.demo.table import TABLE
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.loader import EpochSampler, crop_loader, finish_crops
from dino_train.data.multicrop import normalize
from dino_train.machine.distributed import Processes
from dino_train.machine.precision import choose_precision
from dino_train.models.backbones import mean_and_std
from dino_train.objectives.dino import Dino, TeacherOutput
from dino_train.recipes import DinoRecipe
from dino_train.recipes.files import load_recipe
from dino_train.training import trainer
from dino_train.training.fit_to_machine import fit_to_machine
from dino_train.training.optimizers import build_optimizer, clip_each_gradient

TOPIC = "/camera/image_raw/compressed"
ROUNDS = 2
"""How often the plain loop and the trainer take turns."""


def load(name: str, batch: int, images: int) -> DinoRecipe:
    """Load a shipped recipe with another batch size, resolved for a number of images."""
    recipe = load_recipe(name)
    assert isinstance(recipe, DinoRecipe)
    return dataclasses.replace(recipe, batch_size=batch).resolve(images)[0]


class Enough(Exception):
    """Ends a run of the trainer after the measured steps."""


def trainer_steps(recipe: DinoRecipe, data: DataConfig, machine: MachineConfig, steps: int) -> list[float]:
    """Seconds of each step of the trainer, after five that are not counted."""
    times: list[float] = []
    after_step = Dino.after_step

    def stamped(dino: Dino, outputs: TeacherOutput, scheduled: Mapping[str, float]) -> None:
        after_step(dino, outputs, scheduled)  # the last work on the device in a step
        times.append(time.perf_counter())
        if len(times) > steps + 5:
            raise Enough

    Dino.after_step = stamped  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
            trainer.train(recipe, data, Path(folder) / "run", machine, EvaluationConfig(every=0))
    finally:
        Dino.after_step = after_step  # type: ignore[method-assign]
    return np.diff(times)[5:].tolist()


def loader_steps(recipe: DinoRecipe, frames: MixedFrames, workers: int, on_gpu: bool, steps: int) -> list[float]:
    """Seconds between batches of the loader alone, after those that the workers prefetch."""
    repeated = dataclasses.replace(recipe, epochs=10_000)
    loader = iter(crop_loader(frames, repeated, EpochSampler(frames, repeated), workers, finish=not on_gpu))
    ahead = 4 * max(workers, 1) + 2
    times = []
    for _ in range(steps + ahead):
        started = time.perf_counter()
        next(loader)
        times.append(time.perf_counter() - started)
    return times[ahead:]


def step_alone(
    recipe: DinoRecipe, frames: MixedFrames, machine: MachineConfig, steps: int
) -> tuple[list[float], float, torch.dtype]:
    """Seconds of each step on one batch, the floating-point operations of a step, and its precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processes = Processes(0, 1, device)
    dino = fit_to_machine(Dino(recipe).to(device).train(), machine, processes)
    optimizer = build_optimizer(recipe.optimizer, dino.student)
    precision = choose_precision(machine, device)
    mean, std = mean_and_std(dino.student.backbone)
    scheduled = {"teacher_temp": 0.04, "momentum_teacher": 0.996}
    batch = next(iter(crop_loader(frames, recipe, EpochSampler(frames, recipe), 0)))

    def step() -> None:
        groups = [normalize(crops, mean, std) for crops in finish_crops(batch, device)]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss, outputs = dino(groups, scheduled)
        optimizer.zero_grad()
        loss.backward()
        clip_each_gradient(dino.student, 3.0)
        optimizer.step()
        dino.after_step(outputs, scheduled)
        loss.item()

    for _ in range(3):
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return times, float(counter.get_total_flops()), precision


def matmul_peak(precision: torch.dtype) -> float:
    """Best floating-point operations per second of several large matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(precision)
    best = 0.0
    for _ in range(12):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def measure(name: str, batch: int, steps: int, data: DataConfig, machine: MachineConfig) -> Table:
    """Measure one recipe; returns its table."""
    frames = open_frames(data.paths, data.topics)
    recipe = load(name, batch, len(frames))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = trainer.default_workers(device) if machine.workers is None else machine.workers
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        plain += plain_dino.seconds_per_step(frames, recipe, steps, max(workers, os.cpu_count() or 1), device.type)
        ours += trainer_steps(recipe, data, machine, steps)
    loader = loader_steps(recipe, frames, workers, device.type == "cuda", steps)
    alone, operations, precision = step_alone(recipe, frames, machine, steps)
    crops = recipe.crops
    title = (
        f"{name}, batch {batch}, 2x{crops.global_crops_size} + {crops.local_crops_number}x{crops.local_crops_size}, "
        f"{str(precision).removeprefix('torch.')}, {workers} worker(s)"
    )
    table = Table("what", "images/s", "median step", "p99", "against plain", "of peak", title=title)
    baseline = statistics.median(plain)
    peaks = {precision: matmul_peak(precision), torch.float32: matmul_peak(torch.float32)}
    for what, times, of in (
        ("plain", plain, peaks[torch.float32]),
        ("dino-train", ours, peaks[precision]),
        ("  loader", loader, None),
        ("  step", alone, peaks[precision]),
    ):
        median = statistics.median(times)
        table.add_row(
            what,
            f"{batch / median:.1f}",
            f"{1e3 * median:.0f} ms",
            f"{1e3 * float(np.percentile(times, 99)):.0f} ms",
            f"{baseline / median:.2f}",
            f"{operations / median / of:.0%}" if of else "-",
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["robot_bag", "vit_small_16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 4], help="batch size, one per recipe")
    parser.add_argument("--steps", nargs="+", type=int, default=[40, 5], help="steps per round, one per recipe")
    parser.add_argument("--data", nargs="+", default=[str(TABLE)], help="training data (default: the demo's bag)")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    console = Console(width=120)
    data = DataConfig(options.data, [TOPIC] if options.data == [str(TABLE)] else [], near_duplicate_threshold=0.0)
    for name, batch, steps in zip(options.recipe, options.batch, options.steps, strict=True):
        console.print(measure(name, batch, steps, data, MachineConfig(compile=options.compile)))
    with tempfile.TemporaryDirectory() as folder:
        console.print(bag_reading.speed_table(Path(folder)))


if __name__ == "__main__":
    main()
