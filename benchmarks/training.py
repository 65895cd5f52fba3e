"""Speed of pretraining and distillation, as ratios to plain loops and to their own products in the same run.

    python benchmarks/training.py --out runs/training
    python benchmarks/training.py pretrain --recipe vit_small_16 --batch 64 --steps 50 --compile    # on a GPU

`pretrain`: `plain` is the paper's recipe in `plain_dino.py`, `dino-train` the trainer as users start it, without
evaluations; `step` trains on the same batch over and over, `loader` only draws and crops. `of peak` is the rate of a
step's floating-point operations as a share of the machine's rate in large matrix products of the same precision.
`busy`: the recipe `smoke` on one thread, on two, and on as many as it takes, while every core has another program.
`distill`: a step, and what of it are teacher and student alone.

Each turn is a process of its own, and all take turns; in brackets is the interval that holds a ratio 95 times in 100.
Prints each row when it is measured and writes it to OUT/training.json. Leave the machine alone while it runs; `--quick`
takes nine minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import plain_dino
import torch
from measuring import Results, machine, paired
from torch.utils.flop_counter import FlopCounterMode

from dino_ros.demo.table import TABLE
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.loader import EpochSampler, crop_loader, finish_crops
from dino_train.data.multicrop import normalize
from dino_train.machine.distributed import Processes
from dino_train.machine.precision import choose_precision
from dino_train.machine.threads import choose_threads, sleep_soon
from dino_train.models.backbones import mean_and_std
from dino_train.objectives.dino import Dino, TeacherOutput
from dino_train.objectives.distill import Distill
from dino_train.objectives.objective import Objective
from dino_train.recipes import DinoRecipe, DistillRecipe, Recipe
from dino_train.recipes.files import load_recipe
from dino_train.training import trainer
from dino_train.training.fit_to_machine import fit_to_machine, step_operations
from dino_train.training.optimizers import build_optimizer, clip_each_gradient

TOPIC = "/camera/image_raw/compressed"
TURNS, QUICK_TURNS = 7, 3
"""How often all take turns."""
UNCOUNTED = 5
"""Steps of the trainer, and of a step alone, that are not counted."""

Seconds = list[float]


def load(name: str, batch: int, images: int) -> DinoRecipe:
    """Load a shipped recipe with another batch size, resolved for a number of images."""
    recipe = load_recipe(name)
    assert isinstance(recipe, DinoRecipe)
    return dataclasses.replace(recipe, batch_size=batch).resolve(images)[0]


class Enough(Exception):
    """Ends a run of the trainer after the measured steps."""


def trainer_steps(recipe: DinoRecipe, data: DataConfig, machine: MachineConfig, steps: int) -> Seconds:
    """Each step of the trainer."""
    times: list[float] = []
    after_step = Dino.after_step

    def stamped(dino: Dino, outputs: TeacherOutput, scheduled: Mapping[str, float]) -> None:
        after_step(dino, outputs, scheduled)  # the last work on the device in a step
        times.append(time.perf_counter())
        if len(times) > steps + UNCOUNTED:
            raise Enough

    Dino.after_step = stamped  # type: ignore[method-assign]
    repeated = dataclasses.replace(recipe, epochs=10_000)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        trainer.train(repeated, data, Path(folder) / "run", machine, EvaluationConfig(every=0))
    return np.diff(times)[UNCOUNTED:].tolist()


def loader_steps(recipe: Recipe, frames: MixedFrames, workers: int, on_gpu: bool, steps: int) -> Seconds:
    """Between batches of the loader alone, after those that the workers prefetch."""
    repeated = dataclasses.replace(recipe, epochs=10_000)
    loader = iter(crop_loader(frames, repeated, EpochSampler(frames, repeated), workers, finish=not on_gpu))
    ahead = 4 * max(workers, 1) + 2
    times = []
    for _ in range(steps + ahead):
        started = time.perf_counter()
        next(loader)
        times.append(time.perf_counter() - started)
    return times[ahead:]


class Step:
    """A step of an objective on one batch, as in the trainer."""

    def __init__(self, objective: Objective, recipe: Recipe, frames: MixedFrames, machine: MachineConfig) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._machine = machine
        self.precision = choose_precision(machine, self._device)
        self.objective = fit_to_machine(objective.to(self._device).train(), machine, Processes(0, 1, self._device))
        self._optimizer = build_optimizer(recipe.optimizer, self.objective.student)
        mean, std = mean_and_std(self.objective.student.backbone)
        batch = next(iter(crop_loader(frames, recipe, EpochSampler(frames, recipe), 0)))
        self.groups = [normalize(crops, mean, std) for crops in finish_crops(batch, self._device)]
        self._scheduled = self.objective.schedule(0, 1000, 100)

    def __call__(self) -> None:
        """Take it."""
        with self.autocast():
            loss, outputs = self.objective(self.groups, self._scheduled)
        self._optimizer.zero_grad()
        loss.backward()
        clip_each_gradient(self.objective.student, 3.0)
        self._optimizer.step()
        self.objective.after_step(outputs, self._scheduled)
        loss.item()

    def autocast(self) -> torch.autocast:
        """The precision of its products."""
        return torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32)


def operations(function: Callable[[], object]) -> float:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def timed(function: Callable[[], object], runs: int) -> Seconds:
    """Each call, after some that are not counted."""
    times = []
    for _ in range(runs + UNCOUNTED):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return times[UNCOUNTED:]


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


def distillation(frames: MixedFrames, teacher: Path, steps: int) -> dict[str, Any]:
    """A step of the shipped recipe `robot_bag`, and what of it are the networks alone."""
    recipe = load_recipe("robot_bag", "distill")
    assert isinstance(recipe, DistillRecipe)
    recipe = dataclasses.replace(recipe, teacher=str(teacher)).resolve(len(frames))[0]
    step = Step(Distill(recipe), recipe, frames, MachineConfig())
    networks: Any = step.objective
    crops = step.groups[0]

    @torch.no_grad()
    def teach() -> None:
        with step.autocast():
            networks._views[1](crops)

    def learn() -> None:
        with step.autocast():
            outputs = networks._views[0](crops)
        torch.stack([output.float().sum() for output in outputs]).sum().backward()

    found = {
        name: timed(function, steps) for name, function in (("step", step), ("teacher", teach), ("student", learn))
    }
    return {**found, "operations": operations(teach) + operations(learn), "peak": matmul_peak(step.precision)}


def take_turn(options: argparse.Namespace) -> dict[str, Any]:
    """What a turn's process measures."""
    data = DataConfig(options.data, [TOPIC] if options.data == [str(TABLE)] else [], near_duplicate_threshold=0.0)
    machine = MachineConfig(compile=options.compile, threads=options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frames = open_frames(data.paths, data.topics)
    if options.turn == "teacher":  # of the distillation
        recipe = dataclasses.replace(load_recipe("robot_bag"), epochs=1)
        trainer.train(recipe, data, options.out / "teacher", machine, EvaluationConfig(every=0))
        return {}
    if options.turn == "distill":
        return distillation(frames, options.out / "teacher" / "last.pt", options.steps[0])
    (name,), (batch,), (steps,) = options.recipe, options.batch, options.steps
    recipe = load(name, batch, len(frames))
    workers = trainer.default_workers(device)
    if options.turn == "plain":
        times = plain_dino.seconds_per_step(frames, recipe, steps, max(workers, os.cpu_count() or 1), device.type)
        return {"seconds": times, "peak": matmul_peak(torch.float32)}
    if options.turn == "dino-train":
        return {"seconds": trainer_steps(recipe, data, machine, steps)}
    if options.turn == "loader":
        return {"seconds": loader_steps(recipe, frames, workers, device.type == "cuda", steps)}
    step = Step(Dino(recipe), recipe, frames, machine)
    times = timed(step, steps)
    return {"seconds": times, "operations": operations(step), "peak": matmul_peak(step.precision)}


def turn(options: argparse.Namespace, what: str, recipe: str = "", batch: int = 1, steps: int = 1, **more: Any) -> Any:
    """Let a process of its own take a turn, `dino-train` with what its command sets before it imports torch."""
    found = options.out / "turn.json"
    command = [
        sys.executable,
        __file__,
        "--turn",
        what,
        "--recipe",
        recipe,
        "--batch",
        str(batch),
        "--steps",
        str(steps),
    ]
    command += ["--data", *options.data, "--out", str(options.out), *(["--compile"] if options.compile else [])]
    command += [word for name, value in more.items() for word in (f"--{name}", str(value))]
    environment = {name: value for name, value in os.environ.items() if what != "plain" or name != "GOMP_SPINCOUNT"}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{what} {recipe} failed:\n{done.stderr}")
    return json.loads(found.read_text())


def pretraining(
    options: argparse.Namespace, recipe: str, batch: int, steps: int, turns: int
) -> Iterator[dict[str, Any]]:
    """A row for each of what takes turns."""
    names = ("plain", "dino-train", "step", "loader")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(turns):
        for name in names:
            found[name].append(turn(options, name, recipe, batch, steps))
    seconds = {name: [one["seconds"] for one in ones] for name, ones in found.items()}
    peaks = {name: max(one["peak"] for one in found[name]) for name in ("plain", "step")}
    of_step = found["step"][0]["operations"]
    for name in names:
        every = np.concatenate(seconds[name])
        median = statistics.median(every)
        peak = peaks["plain" if name == "plain" else "step"]
        yield {
            "what": f"{recipe}, batch {batch}: {name}",
            "images/s": batch / median,
            "median step, ms": 1e3 * median,
            "p99, ms": 1e3 * float(np.percentile(every, 99)),
            "times plain": paired(seconds["plain"], seconds[name]),
            "of peak": "" if name == "loader" else of_step / median / peak,
            "load": machine()["load"],
        }


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Another program on every core."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def beside_others(options: argparse.Namespace, steps: int, turns: int) -> Iterator[dict[str, Any]]:
    """The recipe `smoke` on one thread, on as many as a run takes that starts on an idle machine, and on two."""
    recipe = load("smoke", 8, 1000)
    taken = choose_threads(None, step_operations(Dino(recipe), recipe))
    threads = {"one thread": 1, "as many threads as it takes": taken, "two threads": 2}
    found: dict[int, list[Seconds]] = {number: [] for number in threads.values()}
    with busy_cores():
        for _ in range(turns):
            for number, ones in found.items():
                ones.append(turn(options, "dino-train", "smoke", 8, steps, threads=number)["seconds"])
    for name, number in threads.items():
        yield {
            "what": f"smoke, every core busy, {name}",
            "threads": number,
            "images/s": 8 / statistics.median(np.concatenate(found[number])),
            "times one thread": paired(found[1], found[number]),
        }


def distilling(options: argparse.Namespace, steps: int, turns: int) -> Iterator[dict[str, Any]]:
    """The recipe `robot_bag` of `dino-train distill`."""
    turn(options, "teacher")
    found = [turn(options, "distill", steps=steps) for _ in range(turns)]
    networks = [[a + b for a, b in zip(one["teacher"], one["student"], strict=True)] for one in found]
    of_peak = statistics.median(
        one["operations"] / statistics.median(alone) / one["peak"] for one, alone in zip(found, networks, strict=True)
    )
    step = statistics.median(np.concatenate([one["step"] for one in found]))
    yield {
        "what": "robot_bag, batch 32, distill",
        "images/s": 32 / step,
        "median step, ms": 1e3 * step,
        "step over its networks alone": paired([one["step"] for one in found], networks),
        "networks alone, of peak": of_peak,
        "load": machine()["load"],
    }


def main() -> None:
    """Measure everything, or only what is named."""
    parts = ("pretrain", "busy", "distill")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/training"))
    parser.add_argument("--recipe", nargs="+", default=["robot_bag", "vit_small_16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 4], help="batch size, one per recipe")
    parser.add_argument("--steps", nargs="+", type=int, default=[30, 4], help="steps in a turn, one per recipe")
    parser.add_argument("--data", nargs="+", default=[str(TABLE)], help="training data (default: the demo's bag)")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        (options.out / "turn.json").write_text(json.dumps(take_turn(options)))
    else:
        sleep_soon()
        measure(options, QUICK_TURNS if options.quick else TURNS)


def measure(options: argparse.Namespace, turns: int) -> None:
    """Measure what is asked for."""
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "training.json")
    results.add("machine", "machine", [machine()])
    if "pretrain" in options.parts:
        for name, batch, steps in zip(options.recipe, options.batch, options.steps, strict=True):
            results.add(f"pretrain {name}", "pretraining", pretraining(options, name, batch, steps, turns))
    if "busy" in options.parts:
        results.add("busy", "beside other programs", beside_others(options, 40, turns))
    if "distill" in options.parts:
        results.add("distill", "distillation", distilling(options, 30, turns))


if __name__ == "__main__":
    main()
