"""The training loop, read from top to bottom."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from dino_ros.errors import UserError
from dino_train.backbones import mean_and_std, patch_size
from dino_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dino_train.config import Recipe
from dino_train.data.frames import open_frames
from dino_train.data.loader import crop_loader
from dino_train.data.multicrop import normalise
from dino_train.objectives.dino import Dino
from dino_train.schedules import cosine_schedule, linear_schedule, warmup_cosine_schedule

log = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"
SECONDS_BETWEEN_CHECKPOINTS = 120.0


def pretrain(
    recipe: Recipe,
    data: Sequence[str],
    topics: Sequence[str],
    out: Path,
    resume: Checkpoint | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Path:
    """Pretrain by self-distillation and return the path of the last checkpoint, `out/checkpoint.pt`.

    Writes one JSON line every ten steps to `out/log.jsonl`. `resume` goes on from a checkpoint of the same recipe and
    data. `device` is "auto", "cpu" or "cuda"; `workers` are the processes that decode and crop (default: one per core,
    at most 8). Raises UserError for data or a recipe that cannot be used.
    """
    recipe.check()
    accelerator = choose_device(device)
    torch.manual_seed(recipe.seed)
    frames = open_frames(data, topics)
    steps_per_epoch = len(frames) // recipe.batch_size
    steps = steps_per_epoch * recipe.epochs

    dino = Dino(recipe).to(accelerator)
    vit: Any = dino.student["backbone"]
    check_crop_sizes(recipe, patch_size(vit))
    mean, std = mean_and_std(vit)
    optimiser = torch.optim.AdamW(parameter_groups(dino.student), lr=0.0, fused=True)
    first_step = 0
    if resume is not None:
        if resume.pictures != len(frames):
            raise UserError(
                f"The data now has {len(frames)} pictures, the checkpoint was made with {resume.pictures}: "
                "put back what changed, or start a new run."
            )
        dino.load_state_dict(resume.objective)
        optimiser.load_state_dict(resume.optimiser)
        first_step = resume.step
        set_rng_state(resume.rng)

    out.mkdir(parents=True, exist_ok=True)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    loader = crop_loader(frames, recipe, first_step, workers, pin=accelerator.type == "cuda")
    log.info(
        "%d pictures from %s; %d epochs of %d steps on %s; a loss of ln K = %.2f means nothing is learnt",
        len(frames), frames.name, recipe.epochs, steps_per_epoch, accelerator, dino.collapse_loss,
    )  # fmt: skip

    def checkpoint(step: int, metrics: dict[str, float]) -> None:
        save_checkpoint(
            Checkpoint(
                recipe=recipe,
                data=[str(Path(path).resolve()) for path in data],
                topics=list(topics),
                pictures=len(frames),
                step=step,
                objective=dino.state_dict(),
                optimiser=optimiser.state_dict(),
                rng=rng_state(),
                metrics=metrics,
            ),
            out / CHECKPOINT_NAME,
        )

    metrics: dict[str, float] = dict(resume.metrics) if resume else {}
    lr_peak = recipe.optimiser.lr * recipe.batch_size / 256
    dino.train()
    saved_at = logged_at = time.monotonic()
    with progress_bar(first_step, steps) as advance, truncated_log(out / LOG_NAME, first_step) as jsonl:
        for step, batch in enumerate(loader, start=first_step):
            lr = warmup_cosine_schedule(
                step,
                steps,
                recipe.optimiser.warmup_epochs * steps_per_epoch,
                lr_peak,
                recipe.optimiser.min_lr,
            )
            weight_decay = cosine_schedule(
                step, steps, recipe.optimiser.weight_decay, recipe.optimiser.weight_decay_end
            )
            momentum = cosine_schedule(step, steps, recipe.dino.teacher_momentum, 1.0)
            temperature = linear_schedule(
                step,
                recipe.dino.teacher_temperature_epochs * steps_per_epoch,
                recipe.dino.teacher_temperature_start,
                recipe.dino.teacher_temperature,
            )
            for group, decay in zip(optimiser.param_groups, (weight_decay, 0.0), strict=True):
                group["lr"], group["weight_decay"] = lr, decay

            crops = [normalise(crop.to(accelerator, non_blocking=True), mean, std) for crop in batch]
            with torch.autocast(accelerator.type, torch.bfloat16, enabled=accelerator.type == "cuda"):
                loss, health = dino(crops, temperature)
            if not torch.isfinite(loss):
                raise UserError(
                    f"The loss of step {step} is {loss.item()}: lower optimiser.lr, raise the teacher temperature or "
                    f"clip_grad, and go on with `--resume {out}`."
                )
            optimiser.zero_grad()
            loss.backward()
            gradient_norm = clip_each_gradient(dino.student, recipe.optimiser.clip_grad)
            if step < recipe.dino.freeze_last_layer_epochs * steps_per_epoch:
                dino.freeze_last_layer()
            optimiser.step()
            dino.update_teacher(momentum)

            done = step + 1
            if done % 10 == 0 or done == steps:
                now = time.monotonic()
                since = min(10, done - first_step)
                metrics = {
                    "step": done,
                    "epoch": done / steps_per_epoch,
                    "loss": loss.item(),
                    **{name: value.item() for name, value in health.items()},
                    "lr": lr,
                    "weight_decay": weight_decay,
                    "teacher_momentum": momentum,
                    "teacher_temperature": temperature,
                    "gradient_norm": gradient_norm.item(),
                    "pictures_per_second": recipe.batch_size * since / (now - logged_at),
                }
                logged_at = now
                jsonl.write(json.dumps(metrics) + "\n")
                jsonl.flush()
            advance(metrics)
            if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint(done, metrics)
                saved_at = time.monotonic()
    checkpoint(steps, metrics)
    return out / CHECKPOINT_NAME


def resume_run(run: Path, device: str = "auto", workers: int | None = None) -> Path:
    """Go on with the run in folder `run` from its checkpoint, with the recipe and data it was started with."""
    checkpoint = load_checkpoint(run / CHECKPOINT_NAME)
    return pretrain(
        checkpoint.recipe, checkpoint.data, checkpoint.topics, run, checkpoint, device=device, workers=workers
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one. Raises UserError if it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch finds no GPU: use --device cpu, or install torch for your CUDA.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def check_crop_sizes(recipe: Recipe, patch: int) -> None:
    """Raise UserError where a crop is not a whole number of patches."""
    for name, size in (("global_size", recipe.crops.global_size), ("local_size", recipe.crops.local_size)):
        if size < patch or size % patch:
            raise UserError(
                f"crops.{name} is {size}, which is not a multiple of the patch size {patch}: "
                f"choose {max(size // patch, 1) * patch}."
            )


def parameter_groups(student: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Two groups: weights, which decay, then biases and norms (one-dimensional), which do not."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    return [{"params": [p for p in trained if p.ndim > 1]}, {"params": [p for p in trained if p.ndim <= 1]}]


def clip_each_gradient(student: nn.Module, limit: float) -> Tensor:
    """Scale each parameter's gradient to a norm of at most `limit` (0: leave it), as the reference does.

    Returns the norm of all gradients together before clipping.
    """
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    if limit:
        scales = [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
        torch._foreach_mul_(gradients, scales)
    total: Tensor = torch.stack(norms).norm()
    return total


def rng_state() -> dict[str, Tensor]:
    """States of torch's generators that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: dict[str, Tensor]) -> None:
    """Put back what `rng_state` returned; a GPU's state is passed over where there is none."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def progress_bar(first_step: int, steps: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show a bar with the time left; yields a function to call after each step with the last log line."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns) as progress:
        task = progress.add_task("pretrain", total=steps, completed=first_step)

        def advance(metrics: dict[str, float]) -> None:
            shown = ("loss", "teacher_entropy", "pictures_per_second")
            text = "  ".join(f"{name.replace('_', ' ')} {metrics[name]:.2f}" for name in shown if name in metrics)
            progress.update(task, advance=1, description=text or "pretrain")

        yield advance


@contextlib.contextmanager
def truncated_log(path: Path, first_step: int) -> Iterator[TextIO]:
    """Open the JSONL log for appending, without lines of steps that will be done again."""
    kept = []
    if first_step and path.is_file():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= first_step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)
    with path.open("a") as file:
        yield file
