"""What is checked before a run starts, so that it fails at once and in one sentence."""

from __future__ import annotations

from pathlib import Path

from dino_ros.errors import UserError
from dino_train.config import EvaluationConfig, MachineConfig
from dino_train.data.frames import open_frames
from dino_train.evaluation.classification.class_folder import open_class_folder
from dino_train.machine.distributed import Processes
from dino_train.models.checkpoint import Checkpoint
from dino_train.recipes import Recipe
from dino_train.runs.log import epoch_name


def check_no_run(out: Path) -> None:
    """Raise UserError if a folder holds checkpoints of a run that has taken a step."""
    if any(path.name != epoch_name(0) for path in out.glob("[!.]*.pt")):
        raise UserError(f"{out} already holds a run: resume it (--resume {out}), or choose another --out.")


def check_evaluation(evaluation: EvaluationConfig) -> None:
    """Raise UserError for folders that the evaluator could not read later."""
    if evaluation.knn:
        open_class_folder(Path(evaluation.knn))
    if evaluation.frames:
        open_frames(evaluation.frames)


def check_batch_size(recipe: Recipe, machine: MachineConfig, processes: Processes) -> None:
    """Raise UserError if the batch cannot be split evenly over processes and parts."""
    parts = processes.count * machine.accumulate
    if machine.accumulate < 1 or recipe.batch_size % parts:
        raise UserError(
            f"batch_size is {recipe.batch_size}, which cannot be split over {processes.count} processes in "
            f"{machine.accumulate} parts each: choose a multiple of {max(parts, 1)}."
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
                f"choose {max(size // patch, 1) * patch}."
            )


def check_same_data(checkpoint: Checkpoint, images: int) -> None:
    """Raise UserError if the number of images has changed since the checkpoint."""
    if checkpoint.images != images:
        raise UserError(
            f"The data has {images} images, but {checkpoint.images} when the checkpoint was written: restore it, or "
            "start a new run."
        )
