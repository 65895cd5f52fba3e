"""Recipes of distillation: a small student from a larger teacher."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_ros.errors import UserError
from dino_train.recipes.recipe import Recipe


@dataclass
class DistillConfig:
    """What a student takes from its teacher: weights of the parts of the loss."""

    patches: float = 1.0
    """Of the patch tokens' cosine."""
    cls: float = 1.0
    """Of the CLS tokens' cosine. Raise it where the embedding of whole images is what is used."""
    attention: float = 1.0
    """Of the divergence between the CLS attentions, nats. Raise it where masks are what is used."""


@dataclass
class DistillRecipe(Recipe):
    """Everything that decides what a student learns from a teacher, apart from the data."""

    method: ClassVar[str] = "distill"
    exported: ClassVar[Literal["teacher", "student"]] = "student"

    teacher: str = ""
    """Whose features and attention are learnt: a checkpoint of `dino-train` (.pt), an official DINO v1 file (.pth), or
    the timm name of an encoder (downloaded)."""
    distill: DistillConfig = field(default_factory=DistillConfig)

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is missing or out of its range."""
        super().check()
        if not self.teacher:
            raise UserError("There is no teacher: name a checkpoint, a .pth file or a timm encoder with --teacher.")
        weights = dataclasses.asdict(self.distill)
        if min(weights.values()) < 0 or not any(weights.values()):
            raise UserError(f"distill is {weights}: the weights must be 0 or more, and one of them above 0.")
