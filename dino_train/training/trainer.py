"""The training loop, from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dino_ros.errors import UserError
from dino_ros.files import check_writable, remove_leftovers, replacing
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.frames import open_frames
from dino_train.data.listing import keep_listing
from dino_train.data.loader import CropBatch, EpochSampler, check_steps, crop_loader, finish_crops, split
from dino_train.data.multicrop import normalize
from dino_train.data.selection import SelectionParameters
from dino_train.machine.distributed import Processes, join, main_first, max_over_processes, mean_over_processes
from dino_train.machine.precision import choose_precision, peak_memory, skip_synchronization
from dino_train.machine.rank import process_count
from dino_train.machine.threads import choose_threads
from dino_train.models.backbones import mean_and_std, patch_size
from dino_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dino_train.objectives.methods import build_objective
from dino_train.objectives.objective import Objective
from dino_train.objectives.schedules import cosine_schedule, warmup_cosine_schedule
from dino_train.recipes import Recipe
from dino_train.runs.evaluator import BEST_NAME, evaluate_while_training, start_evaluator
from dino_train.runs.folder import EVALUATIONS_NAME
from dino_train.runs.health import HealthMonitor
from dino_train.runs.log import FINISHED_NAME, LAST_NAME, STEPS_BETWEEN_LINES, RunLog, describe_run, epoch_name
from dino_train.runs.progress import progress_bar
from dino_train.runs.report import write_report
from dino_train.training.checks import (
    check_batch_size,
    check_crop_sizes,
    check_evaluation,
    check_exportable,
    check_no_run,
    check_settings,
    same_data,
    too_short,
)
from dino_train.training.fit_to_machine import fit_to_machine, step_operations
from dino_train.training.optimizers import build_optimizer, clip_each_gradient, set_rates

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 120.0
NON_FINITE_NAME = "non_finite.pt"
UNPROVEN_NAME = ".unproven.pt"
"""A checkpoint until the next step's loss is finite; then it becomes the run's last."""


def train(
    recipe: Recipe,
    data: DataConfig,
    out: Path,
    machine: MachineConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    resume: Checkpoint | None = None,
) -> Path:
    """Train by the recipe's method; returns the path of the last checkpoint, `out/last.pt`.

    Writes the run's folder (see `runs/log.py`) to `out`. `resume` continues from a checkpoint of the same recipe and
    data. Under `torchrun` the processes share each batch. Raises UserError for data or a recipe that cannot be used,
    and for a loss that is not finite.
    """
    machine, evaluation = machine or MachineConfig(), evaluation or EvaluationConfig()
    check_settings(recipe, machine, evaluation)
    if resume is None:
        check_no_run(out)
    else:
        check_writable(out)
    check_evaluation(evaluation)
    check_batch_size(recipe, machine, process_count())
    with join(machine.device) as processes:
        with main_first(processes):  # it writes the index of a bag, which the others then read
            frames = open_frames(
                data.paths, data.topics, data.weights, SelectionParameters(data.near_duplicate_threshold)
            )
        if resume is not None:
            frames = same_data(frames, resume, out)
        check_steps(frames, EpochSampler(frames, recipe))
        recipe, chosen = recipe.resolve(len(frames))
        if chosen and processes.main:
            values = ", ".join(f"{name} = {value}" for name, value in chosen.items())
            log.info("Chosen for %d images: %s", len(frames), values)

        # ---- objective, optimizer --------------------------------------------------------------------------------
        torch.manual_seed(recipe.seed)
        objective = build_objective(recipe, resume is None)
        vit: Any = objective.student.backbone
        check_crop_sizes(recipe, patch_size(vit))
        check_exportable(vit)
        if processes.device.type == "cpu":  # kept, since sums depend on it: a run that is resumed takes as many
            threads = choose_threads(machine.threads, step_operations(objective, recipe) / processes.count)
            machine = dataclasses.replace(machine, threads=threads)
        mean, std = mean_and_std(vit)
        objective = fit_to_machine(objective.to(processes.device).train(), machine, processes)
        model: nn.Module = objective
        if processes.count > 1:
            model = DistributedDataParallel(objective, broadcast_buffers=False)
        optimizer = build_optimizer(recipe.optimizer, objective.student)
        precision = choose_precision(machine, processes.device)
        scaler = torch.GradScaler(processes.device.type, enabled=precision == torch.float16)
        first_step, seconds_before = 0, 0.0
        if resume is not None:
            objective.restore(resume.objective)
            objective.licenses = resume.licenses
            optimizer.load_state_dict(resume.optimizer)
            scaler.load_state_dict(resume.scaler)
            first_step, seconds_before = resume.step, resume.seconds

        # ---- data ------------------------------------------------------------------------------------------------
        sampler = EpochSampler(frames, recipe, first_step, processes.rank, processes.count)
        on_gpu = processes.device.type == "cuda"
        workers = default_workers(processes.device) if machine.workers is None else machine.workers
        with main_first(processes):  # it looks for cuts in recordings
            loader = crop_loader(frames, recipe, sampler, workers, finish=not on_gpu)
        dataset: Any = loader.dataset
        steps_per_epoch = sampler.steps_per_epoch
        steps = sampler.steps
        kept = kept_steps(evaluation, steps, steps_per_epoch)

        # ---- the folder of the run -------------------------------------------------------------------------------
        started = time.monotonic()
        fingerprint = resume.fingerprint if resume is not None else ""

        def checkpoint(step: int, name: str) -> None:
            if not processes.main:
                return
            state = Checkpoint(
                recipe=recipe,
                data=data.absolute(),
                machine=machine,
                evaluation=evaluation.absolute(),
                images=len(frames),
                step=step,
                steps_per_epoch=steps_per_epoch,
                objective=objective.checkpoint_state(),
                optimizer=optimizer.state_dict(),
                scaler=scaler.state_dict(),
                seconds=seconds_before + time.monotonic() - started,
                fingerprint=fingerprint,
                licenses=objective.licenses,
            )
            save_checkpoint(state, out / name)

        with contextlib.ExitStack() as stack:
            if processes.main:
                out.mkdir(parents=True, exist_ok=True)
                remove_leftovers(out)
                (out / FINISHED_NAME).unlink(missing_ok=True)
                (out / UNPROVEN_NAME).unlink(missing_ok=True)
                if resume is None:  # what a run left that was stopped before its first checkpoint
                    for name in (EVALUATIONS_NAME, BEST_NAME):
                        (out / name).unlink(missing_ok=True)
                fingerprint = fingerprint or keep_listing(frames, out)
                describe_run(out, recipe, machine, processes)
                run_log = stack.enter_context(RunLog(out, first_step))
                if kept and not first_step:
                    checkpoint(0, epoch_name(0))
                if kept and evaluation.while_training:
                    stack.enter_context(evaluate_while_training(out, data, evaluation, processes.device.type))
                chance = recipe.chance_loss
                log.info(
                    "%d images from %s; %g epochs of %d steps on %s in %s%s",
                    len(frames), frames.name, recipe.epochs, steps_per_epoch, processes.device,
                    str(precision).removeprefix("torch."),
                    f"; the loss of chance is {chance:.2f}" if chance else "",
                )  # fmt: skip
                if notice := too_short(recipe, frames, steps, steps_per_epoch):
                    log.warning("%s", notice)
            advance = stack.enter_context(progress_bar(first_step, steps, shown=processes.main))
            monitor = HealthMonitor(recipe, steps)
            metrics: dict[str, float] = {}
            saved_at = logged_at = time.monotonic()
            logged_step = first_step
            unproven = False

            # ---- the loop ----------------------------------------------------------------------------------------
            for step, batch in enumerate(loader, start=first_step):
                torch.manual_seed(step_seed(recipe.seed, step, processes.rank))
                schedule(optimizer, recipe, step, steps, steps_per_epoch)
                scheduled = objective.schedule(step, steps, steps_per_epoch)
                optimizer.zero_grad()
                parts = list(split(batch, machine.accumulate))
                losses, parts_outputs = [], []
                for number, part in enumerate(parts):
                    groups = [normalize(crops, mean, std) for crops in finish_crops(part, processes.device)]
                    more = number + 1 < len(parts)
                    with skip_synchronization(model, more):
                        with torch.autocast(processes.device.type, precision, enabled=precision != torch.float32):
                            loss, outputs = model(groups, scheduled)
                        scaler.scale(loss / len(parts)).backward()
                    losses.append(loss.detach())
                    parts_outputs.append(outputs)
                outputs = type(outputs)(*(torch.cat(tensors) for tensors in zip(*parts_outputs, strict=True)))
                loss = mean_over_processes(torch.stack(losses).mean())
                scaler.unscale_(optimizer)
                gradient_norm = clip_each_gradient(objective.student, recipe.optimizer.clip_grad)
                # In fp16 a gradient overflows now and then: the scaler skips that step by itself.
                if not torch.isfinite(loss if scaler.is_enabled() else loss + gradient_norm):
                    save_non_finite(out / NON_FINITE_NAME, step, loss, batch, objective, processes)
                    if processes.main:
                        (out / UNPROVEN_NAME).unlink(missing_ok=True)
                    raise not_finite(out, step, loss, gradient_norm)
                if unproven and processes.main:
                    (out / UNPROVEN_NAME).replace(out / LAST_NAME)
                unproven = False
                objective.before_step(step / steps_per_epoch)
                scaler.step(optimizer)
                scaler.update()

                done = step + 1
                if done % STEPS_BETWEEN_LINES == 0 or done == steps:
                    now = time.monotonic()
                    metrics = {
                        "step": done,
                        "epoch": done / steps_per_epoch,
                        **objective.health(loss, outputs),
                        "lr": optimizer.param_groups[0]["lr"],
                        "weight_decay": optimizer.param_groups[0]["weight_decay"],
                        **scheduled,
                        "gradient_norm": gradient_norm.item(),
                        "images_per_second": recipe.batch_size * (done - logged_step) / (now - logged_at),
                        "memory_gb": peak_memory(processes.device) / 1e9,
                        "elapsed_seconds": seconds_before + now - started,
                    }
                    logged_at, logged_step = now, done
                    if processes.main:
                        run_log.write(metrics)
                        if warning := monitor.check(metrics):
                            log.warning("%s", warning)
                objective.after_step(outputs, scheduled)
                advance(metrics)
                if done % steps_per_epoch == 0:
                    tell_left_out(dataset.bad, done // steps_per_epoch, processes)
                if done in kept:
                    checkpoint(done, epoch_name(done / steps_per_epoch))
                due = done in kept or time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS
                if due and done < steps:
                    checkpoint(done, UNPROVEN_NAME)
                    saved_at, unproven = time.monotonic(), True
            checkpoint(steps, LAST_NAME)
            if processes.main:
                (out / FINISHED_NAME).touch()
                if not kept:  # otherwise the evaluator writes it
                    write_report(out)
                elif not evaluation.while_training:
                    start_evaluator(out, data, evaluation, processes.device.type).wait()
    return out / LAST_NAME


def resume_run(run: Path, machine: MachineConfig | None = None) -> Path:
    """Resume the run in the folder `run` from its `last.pt`, with the recipe and data it was started with.

    `machine` replaces the run's machine settings; only with the same ones does it continue bit for bit.
    """
    checkpoint = load_checkpoint(run / LAST_NAME)
    return train(
        checkpoint.recipe, checkpoint.data, run, machine or checkpoint.machine, checkpoint.evaluation, checkpoint
    )


def tell_left_out(bad: Tensor, epoch: int, processes: Processes) -> None:
    """Log how many images could not be read by the end of an epoch, and share what each process knows of them.

    `bad` is that of CropDataset, [N].
    """
    bad |= max_over_processes(bad.to(processes.device, torch.uint8)).to("cpu", torch.bool)
    if processes.main and bad.any():
        log.warning("epoch %d: %d of %d images cannot be read; others take their place", epoch, bad.sum(), len(bad))


def kept_steps(evaluation: EvaluationConfig, steps: int, steps_per_epoch: int) -> set[int]:
    """Steps after which a checkpoint is kept, the last among them; none if nothing is evaluated."""
    if not evaluation.every:
        return set()
    every = max(evaluation.every * steps_per_epoch, 1)
    return {min(round(number * every), steps) for number in range(1, math.ceil(steps / every) + 1)}


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> None:
    """Set the optimizer's learning rate and weight decay for a step."""
    config = recipe.optimizer
    peak = config.lr * recipe.batch_size / 256
    lr = warmup_cosine_schedule(step, steps, config.warmup_epochs * steps_per_epoch, peak, config.min_lr)
    weight_decay = cosine_schedule(step, steps, config.weight_decay, config.weight_decay_end)
    set_rates(optimizer, config, lr, weight_decay)


def default_workers(device: torch.device) -> int:
    """Number of processes that decode and crop: one per core, at most 8, for a GPU; one per 8 cores for a CPU, which
    needs its cores for the steps."""
    cores = os.cpu_count() or 1
    return min(cores, 8) if device.type == "cuda" else max(cores // 8, 1)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the networks' random draws (stochastic depth), different for every step and process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def not_finite(out: Path, step: int, loss: Tensor, gradient_norm: Tensor) -> UserError:
    """What to tell of a step that was not applied, and how to go on."""
    last = out / LAST_NAME
    start = f"from the last good checkpoint with --init {last}" if last.exists() else "anew"
    return UserError(
        f"At step {step} the loss is {loss.item()}, its gradient's norm {gradient_norm.item()}; the step was not "
        f"applied, and {out / NON_FINITE_NAME} holds its crops, weights and gradient norms: start another run (--out) "
        f"{start} and a lower --optimizer.lr or --optimizer.clip_grad, or with --machine.precision fp32."
    )


def save_non_finite(
    path: Path, step: int, loss: Tensor, batch: CropBatch, objective: Objective, processes: Processes
) -> None:
    """Save what a non-finite loss was computed from, not as a checkpoint: nothing resumes from it. Each process writes
    its own part."""
    facts = {
        "step": step,
        "loss": loss,
        "images": batch.images,
        "crops": batch.crops,
        "gradient_norms": {n: p.grad.norm() for n, p in objective.student.named_parameters() if p.grad is not None},
        "weights": objective.checkpoint_state(),
    }
    name = path.name if processes.main else f"{path.stem}_{processes.rank}{path.suffix}"
    with replacing(path.with_name(name)) as temporary:
        torch.save(facts, temporary)
