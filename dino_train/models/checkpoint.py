"""Checkpoints: written completely or not at all, and read without executing anything in them."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.models.backbones import build_backbone, first_line
from dino_train.models.weight_files import check_finite, check_intact, strange_contents
from dino_train.recipes import DistillRecipe, Recipe
from dino_train.recipes.files import recipe_from_dict

FORMAT_VERSION = 4
READABLE = {3, 4}
"""Format 3 knows of the data only how many images it has."""
PARTS: dict[str, Any] = {"data": DataConfig, "machine": MachineConfig, "evaluation": EvaluationConfig}


@dataclass
class Checkpoint:
    """The state of a run after some step.

    It has no state of random generators: all random numbers depend on the recipe's seed and the step alone.
    """

    recipe: Recipe
    """Resolved, without "auto"."""
    data: DataConfig
    machine: MachineConfig
    evaluation: EvaluationConfig
    images: int
    """Number of images in the data."""
    step: int
    """Steps done."""
    steps_per_epoch: int
    objective: dict[str, Any]
    """The objective's state: weights of its networks, and what the method adds, such as a center or a queue."""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """State of the gradient scaler; empty unless the precision is fp16."""
    seconds: float
    """Training time so far, without pauses."""
    fingerprint: str = ""
    """Of the images' names and sizes, see `data/listing.py`; empty in format 3."""
    licenses: tuple[str, ...] = ()
    """See `Objective.licenses`."""

    @property
    def network(self) -> str:
        """The network that is exported and evaluated: "teacher" or "student"."""
        return self.recipe.exported


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that `path` is a complete one at any time."""
    fields = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    for name in ("recipe", *PARTS):
        fields[name] = dataclasses.asdict(fields[name])
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **fields}, file)
    except (OSError, RuntimeError) as error:  # where a write fails, torch may raise its own instead
        reason = next((cause.strerror for cause in causes(error) if isinstance(cause, OSError)), first_line(error))
        raise UserError(
            f"The checkpoint {path} cannot be written ({reason}): make room, then resume from the one before."
        ) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those in whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `dino-train pretrain` or `distill`. Only tensors and plain values are unpickled.

    Raises UserError if the file is missing, is not a checkpoint, has another format version, or holds weights that are
    not finite.
    """
    if not path.is_file():
        raise UserError(
            f"There is no checkpoint {path}: give one that `dino-train pretrain` or `distill` wrote, such as "
            "runs/mine/last.pt."
        )
    check_intact(path)
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text is advice to execute the file
        raise UserError(
            f"{path} is not read, since it may hold more than tensors and plain values, which would be executed: give "
            "a checkpoint of `dino-train`."
        ) from error
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({first_line(error)}): it is truncated, or not of `dino-train`: "
            "give another."
        ) from error
    if not isinstance(fields, dict) or "format_version" not in fields:
        raise UserError(f"{path} is not a checkpoint of `dino-train pretrain` or `distill`: give the last.pt of a run.")
    version = fields.pop("format_version")
    if version not in READABLE:
        raise UserError(
            f"{path} has checkpoint format {version}, this version of dino_ros reads {FORMAT_VERSION}: use the "
            "version that wrote it."
        )
    with strange_contents(path):
        parts = {name: part(**fields[name]) for name, part in PARTS.items()}
        checkpoint = Checkpoint(**{**fields, **parts, "recipe": recipe_from_dict(fields["recipe"])})
        check_finite(checkpoint.objective, path)
    return checkpoint


def checkpoint_backbone(checkpoint: Checkpoint, network: str) -> VisionTransformer:
    """Rebuild the ViT of a checkpoint's `network`: "teacher" or "student".

    Raises UserError if it is not in the checkpoint: some methods have no teacher, and that of a distilled student is a
    file of its own.
    """
    prefix = f"{network}.backbone."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.objective.items() if k.startswith(prefix)}
    if not weights:
        recipe = checkpoint.recipe
        instead = f"name {recipe.teacher} itself" if isinstance(recipe, DistillRecipe) else "take the student"
        raise UserError(f"A checkpoint of {recipe.method} holds no {network}: {instead}.")
    vit = build_backbone(checkpoint.recipe.backbone, checkpoint.recipe.crops.global_crops_size, download=False)
    vit.load_state_dict(weights)
    return vit
