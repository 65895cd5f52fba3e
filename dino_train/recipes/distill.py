"""Recipes of distillation: a small student learns from a larger teacher."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_ros.errors import UserError
from dino_train.recipes.recipe import Recipe


@dataclass
class DistillConfig:
    """Weights of the parts of the loss."""

    patches: float = 1.0
    """Weight of the cosine distance of the patch tokens. Raise it if you use the features."""
    cls: float = 1.0
    """Weight of the cosine distance of the CLS tokens. Raise it if you use the embedding of whole images."""
    attention: float = 1.0
    """Weight of the KL divergence of the CLS attentions, nats. Raise it if you use the masks."""


@dataclass
class DistillRecipe(Recipe):
    """A recipe of distillation."""

    method: ClassVar[str] = "distill"
    exported: ClassVar[Literal["teacher", "student"]] = "student"

    teacher: str = ""
    """The frozen teacher: a checkpoint of `dino-train`, a file or Hugging Face folder of another encoder, or the timm
    name of one (downloaded)."""
    init: str | None = None
    """Start from an encoder of the student's width and heads instead of random weights: "teacher" copies evenly spaced
    blocks of the teacher, which learns in minutes what takes hours from random weights; the checkpoint of another run
    goes on with other crops or data. Any encoder that `teacher` may be, may be this."""
    distill: DistillConfig = field(default_factory=DistillConfig)

    def check(self) -> None:
        """Raise UserError, naming the setting, if a value is missing or out of range."""
        super().check()
        if not self.teacher:
            raise UserError(
                "There is no teacher: give a checkpoint, a file of weights or a timm encoder with --teacher."
            )
        weights = dataclasses.asdict(self.distill)
        if not any(weights.values()):
            raise UserError(f"distill is {weights}: one of its weights must be above 0, such as --distill.patches 1.")
