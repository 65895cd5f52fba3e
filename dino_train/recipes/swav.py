"""Recipes of SwAV."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class SwavConfig:
    """SwAV: predicts the assignment of one view to prototypes from another view (Caron et al. 2020, section 3)."""

    prototypes: int = 3000
    """Number of prototypes. Lower it for small data: a few hundred for a few thousand images."""
    hidden_dim: int = 2048
    """Width of the head's hidden layer. Lower it, as to 512, with a small ViT."""
    out_dim: int = 128
    """Dimensions of the head's output and of the prototypes. Seldom changed."""
    temperature: float = 0.1
    """Temperature of the softmax over the prototypes. Seldom changed."""
    epsilon: float = 0.05
    """Temperature of the assignments; lower is harder. Lower it if the loss stays at the logarithm of the number of
    prototypes."""
    iterations: int = 3
    """Iterations of Sinkhorn-Knopp. Seldom changed: more spread the images more evenly."""
    queue: int = 3840
    """Past images that are assigned together with the batch; 0 for none. For batches much smaller than the number of
    prototypes, which are too small to be spread evenly over all prototypes."""
    queue_from_epochs: float = 15
    """Epochs before the queue is used: its entries change too fast at first. Lower it for runs of few epochs."""
    freeze_prototypes_epochs: float = 1
    """Epochs at the start in which the prototypes are frozen. Raise it if the loss does not fall."""


@dataclass
class SwavRecipe(PretrainRecipe):
    """A recipe of SwAV."""

    method: ClassVar[str] = "swav"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_uniform: ClassVar[str] = (
        "lower --swav.epsilon or --swav.prototypes, or raise --swav.freeze_prototypes_epochs or "
        "--swav.queue_from_epochs"
    )

    swav: SwavConfig = field(default_factory=SwavConfig)

    @property
    def chance_loss(self) -> float:
        """The logarithm of the number of prototypes, nats."""
        return math.log(self.swav.prototypes)
