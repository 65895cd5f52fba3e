"""Recipes of SwAV."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class SwavConfig:
    """SwAV: one view's assignment to prototypes is predicted from another view (Caron et al. 2020, section 3)."""

    prototypes: int = 3000
    """Number of prototypes. Lower it for small data: a few hundred for some thousand images."""
    hidden_dim: int = 2048
    """Width of the head's hidden layer."""
    out_dim: int = 128
    """Dimensions in which views and prototypes are compared."""
    temperature: float = 0.1
    """Temperature of the softmax over the prototypes."""
    epsilon: float = 0.05
    """Temperature of the assignments; lower ones are harder. Lower it if the loss stays at the logarithm of the number
    of prototypes."""
    iterations: int = 3
    """Rounds of Sinkhorn-Knopp."""
    queue: int = 3840
    """Past images that are assigned together with the batch; 0 for none. For batches much smaller than the number of
    prototypes, which could not be shared out otherwise."""
    queue_from_epochs: float = 15
    """Epochs after which the queue is used: before, its entries change too fast."""
    freeze_prototypes_epochs: float = 1
    """Epochs at the start in which the prototypes stand still. Raise it if the loss does not fall."""


@dataclass
class SwavRecipe(PretrainRecipe):
    """Everything that decides what SwAV learns, apart from the data."""

    method: ClassVar[str] = "swav"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_uniform: ClassVar[str] = (
        "lower swav.epsilon or swav.prototypes, or raise swav.freeze_prototypes_epochs or swav.queue_from_epochs"
    )

    swav: SwavConfig = field(default_factory=SwavConfig)

    @property
    def chance_loss(self) -> float:
        """The logarithm of the number of prototypes, nats."""
        return math.log(self.swav.prototypes)

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        super().check()
        self.check_above_zero("prototypes", "temperature", "epsilon", "iterations")
