"""Recipes of MoCo, versions 2 and 3."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_ros.errors import UserError
from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class MocoConfig:
    """MoCo: one view must be found by another among negatives. Defaults of v2 (Chen et al. 2020)."""

    version: Literal[2, 3] = 2
    """2 takes its negatives from a queue of past batches; 3 from the batch alone, which must then be large, and gives
    the student a predictor (Chen et al. 2021, algorithm 1)."""
    queue: int = 65536
    """Negatives in the queue of version 2, at least a batch. Lower it for small data: it should not hold the same
    images twice."""
    temperature: float = 0.2
    """Temperature of the softmax over the similarities."""
    hidden_dim: int = 2048
    """Width of the hidden layers of the heads; version 3 takes 4096."""
    out_dim: int = 128
    """Dimensions in which views are compared; version 3 takes 256."""
    momentum: float = 0.999
    """EMA of the teacher (the momentum encoder). Constant in version 2; version 3 starts at 0.99 and rises to 1 along a
    cosine. Lower it for short runs."""
    freeze_patches: bool = False
    """Keep the student's patch embedding at its random weights: steadier for large ViTs in version 3 (section 4.2)."""


@dataclass
class MocoRecipe(PretrainRecipe):
    """Everything that decides what MoCo learns, apart from the data."""

    method: ClassVar[str] = "moco"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_uniform: ClassVar[str] = "make crops of an image more alike (crops.global_crops_scale, crops.color)"

    moco: MocoConfig = field(default_factory=MocoConfig)

    @property
    def chance_loss(self) -> float:
        """Of a guess among all candidates, in the units of the loss."""
        if self.moco.version == 2:
            return math.log(1 + self.moco.queue)
        return 4 * self.moco.temperature * math.log(self.batch_size)

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        super().check()
        self.check_above_zero("temperature")
        if self.moco.version == 2 and self.moco.queue < self.batch_size:
            raise UserError(
                f"moco.queue is {self.moco.queue}, less than the batch of {self.batch_size}: raise it, or take "
                "--moco.version 3, which needs no queue."
            )
