"""Speed of adapting an encoder to one's own log, against distilling it, in the same run.

    python benchmarks/adapting.py --encoder encoder.safetensors

Both train a ViT of the encoder's shape from its weights, on the same batch of the crops of the recipe `adapt`. They
take turns, a step each. On a CPU a step's time is that of its thread, so that other work on the machine does not count;
on a GPU it is the time that passes. The images are noise: a step takes as long whatever it sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table

from dino_train.config import MachineConfig
from dino_train.machine.distributed import Processes
from dino_train.machine.precision import choose_precision
from dino_train.objectives.methods import build_objective
from dino_train.recipes import Dinov2Recipe, DistillRecipe, Recipe
from dino_train.recipes.files import load_recipe
from dino_train.training.fit_to_machine import fit_to_machine
from dino_train.training.optimizers import build_optimizer, set_rates

UNCOUNTED = 2
"""Steps of each before those that count."""


def recipes(encoder: str, backbone: str, size: int, batch: int) -> dict[str, Recipe]:
    """What is timed, by name; the first is compared with the others."""
    adapt = load_recipe("adapt")
    assert isinstance(adapt, Dinov2Recipe)
    adapt = dataclasses.replace(
        adapt,
        backbone=dataclasses.replace(adapt.backbone, name=backbone),
        crops=dataclasses.replace(adapt.crops, global_crops_size=size),
        batch_size=batch,
        init=encoder,
    )
    whole = dataclasses.replace(adapt, dinov2=dataclasses.replace(adapt.dinov2, freeze_blocks=0))
    distill = DistillRecipe(adapt.backbone, adapt.crops, batch_size=batch, teacher=encoder, init="teacher")
    return {"adapt": adapt, "distill": distill, "adapt, no block frozen": whole}


def stepper(recipe: Recipe, machine: MachineConfig, device: torch.device) -> Callable[[], float]:
    """A function that takes a step on a batch of noise and returns its seconds."""
    objective = fit_to_machine(build_objective(recipe, new=True).to(device).train(), machine, Processes(0, 1, device))
    optimizer = build_optimizer(recipe.optimizer, objective.student)
    set_rates(optimizer, recipe.optimizer, 1e-5, 0.04)
    precision = choose_precision(machine, device)
    size = recipe.crops.global_crops_size
    crops = torch.randn(2 * recipe.batch_size, 3, size, size, device=device)
    scheduled = objective.schedule(50, 100, 10)  # past the epochs in which the backbone is frozen
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def step() -> float:
        started = clock()
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss, outputs = objective([crops], scheduled)
        loss.backward()
        objective.before_step(5.0)
        optimizer.step()
        objective.after_step(outputs, scheduled)
        loss.item()
        return clock() - started

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="weights, as `dino-train pretrain --init` takes them")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm name of their ViT")
    parser.add_argument("--size", type=int, default=112, help="side of the crops, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="steps of each that count")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads that wait for a busy core would count as work
    machine = MachineConfig(precision=options.precision)
    chosen = recipes(options.encoder, options.backbone, options.size, options.batch)
    steps = {name: stepper(recipe, machine, device) for name, recipe in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.steps + UNCOUNTED):
        for name, step in steps.items():
            seconds[name].append(step())
    medians = {name: statistics.median(times[UNCOUNTED:]) for name, times in seconds.items()}
    title = f"batch {options.batch}, 2x{options.size}, {options.precision}, {device.type}"
    table = Table("", "images/s", "images/s of distill", title=title)
    for name, median in medians.items():
        table.add_row(name, f"{options.batch / median:.2f}", f"{medians['distill'] / median:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
