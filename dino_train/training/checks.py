"""What is checked before a run starts, so that it fails at once and in one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_ros.files import check_writable
from dino_train.config import EvaluationConfig, MachineConfig
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.listing import as_started
from dino_train.data.selection import SelectedFrames
from dino_train.evaluation.classification.class_folder import open_class_folder
from dino_train.models.backbones import VitOutputs, patch_size
from dino_train.models.checkpoint import Checkpoint
from dino_train.ranges import check_ranges
from dino_train.recipes import PretrainRecipe, Recipe
from dino_train.runs.log import LAST_NAME, epoch_name

FEW_STEPS = 400
"""Steps that random weights take, on small data, until attention outlines objects: `robot_bag` on 4,000 frames had an
IoU of 0.15 after 124 steps, as at random, 0.25 after 248 and 0.41 after 372 (benchmarks/results/training.md)."""


def check_settings(recipe: Recipe, machine: MachineConfig, evaluation: EvaluationConfig) -> None:
    """Raise UserError, naming the setting, if a value is out of range."""
    recipe.check()
    check_ranges(machine, "machine")
    check_ranges(evaluation, "evaluation")


def check_no_run(out: Path) -> None:
    """Raise UserError if a folder holds a run that has taken a step, or cannot be written into."""
    check_writable(out)
    if (out / LAST_NAME).exists() or any(path.name != epoch_name(0) for path in out.glob("epoch_*.pt")):
        raise UserError(f"{out} already holds a run: resume it (--resume {out}), or choose another --out.")


def check_evaluation(evaluation: EvaluationConfig) -> None:
    """Raise UserError for folders that the evaluator could not read later."""
    if evaluation.knn:
        open_class_folder(Path(evaluation.knn))
    if evaluation.frames:
        open_frames(evaluation.frames)


def check_batch_size(recipe: Recipe, machine: MachineConfig, processes: int) -> None:
    """Raise UserError if the batch cannot be split evenly over processes and parts."""
    parts = processes * machine.accumulate
    if recipe.batch_size % parts:
        raise UserError(
            f"batch_size is {recipe.batch_size}, which cannot be split over {processes} processes in "
            f"{machine.accumulate} parts each: give a --batch_size that is a multiple of {parts}."
        )
    least = recipe.smallest_batch * machine.accumulate
    if recipe.batch_size < least:
        in_parts = f" in {machine.accumulate} parts" if machine.accumulate > 1 else ""
        raise UserError(
            f"batch_size is {recipe.batch_size}{in_parts}, but {recipe.method} compares images with one another, "
            f"at least {recipe.smallest_batch} in a part: give --batch_size {max(least, parts)} or more."
        )


def check_crop_sizes(recipe: Recipe, patch: int) -> None:
    """Raise UserError if the side of a crop is not a multiple of the patch size."""
    sizes = {"global_crops_size": recipe.crops.global_crops_size}
    if recipe.crops.local_crops_number:
        sizes["local_crops_size"] = recipe.crops.local_crops_size
    for name, size in sizes.items():
        if size < patch or size % patch:
            raise UserError(
                f"crops.{name} is {size}, which is not a multiple of the patch size {patch}: "
                f"give --crops.{name} {max(size // patch, 1) * patch}."
            )


@torch.no_grad()
def check_exportable(vit: VisionTransformer) -> None:
    """Raise UserError for a ViT that would train and then could not be exported, such as one of parallel blocks."""
    size = 2 * patch_size(vit)
    VitOutputs(vit.eval())(torch.zeros(1, 3, size, size))


def same_data(frames: MixedFrames, checkpoint: Checkpoint, run: Path) -> MixedFrames:
    """The data of a run as it was when the run started; see `as_started`, whose UserError it raises."""
    if checkpoint.fingerprint:
        return as_started(frames, checkpoint.fingerprint, run)
    if checkpoint.images != len(frames):  # all that format 3 knows
        raise UserError(
            f"The data has {len(frames)} images, but {checkpoint.images} when the checkpoint was written: restore it, "
            "or start a new run."
        )
    return frames


def too_short(recipe: Recipe, frames: MixedFrames, steps: int, steps_per_epoch: int) -> str:
    """A warning that a run from random weights is too short to learn, with what would help; "" if it is not."""
    if not isinstance(recipe, PretrainRecipe) or recipe.init or recipe.backbone.pretrained or steps >= FEW_STEPS:
        return ""
    left_out = sum(source.near_duplicates for source in frames.sources if isinstance(source, SelectedFrames))
    duplicates = f", a lower --near_duplicate_threshold ({left_out} frames are left out)" if left_out else ""
    return (
        f"This run has {steps} steps, too few to learn from random weights, which takes {FEW_STEPS} and more: give "
        f"--epochs {math.ceil(FEW_STEPS / steps_per_epoch)}, a --batch_size below {recipe.batch_size}, more recordings"
        f"{duplicates}, or weights to start from (--init)."
    )
