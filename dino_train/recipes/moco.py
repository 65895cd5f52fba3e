"""Recipes of MoCo v2 and v3."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_ros.errors import UserError
from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class MocoConfig:
    """MoCo: one view of an image identifies the other among negatives. Defaults are those of v2 (Chen et al. 2020)."""

    version: Literal[2, 3] = 2
    """2 takes its negatives from a queue of past batches. 3 takes them from the batch, which must be large, and adds a
    predictor to the student (Chen et al. 2021, algorithm 1)."""
    queue: int = 65536
    """Negatives in the queue of version 2, at least one batch. Lower it for small data: the queue should not hold the
    same image twice."""
    temperature: float = 0.2
    """Temperature of the softmax over the similarities. Lower it if the run warns that the loss stays at that of
    chance."""
    hidden_dim: int = 2048
    """Width of the hidden layers of the heads; 4096 for version 3. Lower it, as to 512, with a small ViT."""
    out_dim: int = 128
    """Output dimensions of the heads; 256 for version 3. Seldom changed otherwise."""
    momentum: float = 0.999
    """EMA momentum of the teacher (momentum encoder). Constant in version 2; version 3 starts at 0.99 and rises to 1
    along a cosine. Lower it for short runs."""
    freeze_patches: bool = False
    """Freeze the student's random patch embedding: makes version 3 more stable for large ViTs (section 4.2)."""


@dataclass
class MocoRecipe(PretrainRecipe):
    """A recipe of MoCo."""

    method: ClassVar[str] = "moco"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_uniform: ClassVar[str] = (
        "make crops of an image more similar (raise the lower end of --crops.global_crops_scale, lower --crops.color)"
    )

    moco: MocoConfig = field(default_factory=MocoConfig)

    @property
    def chance_loss(self) -> float:
        """Loss of a random guess among all candidates, in the units of the loss."""
        if self.moco.version == 2:
            return math.log(1 + self.moco.queue)
        return 4 * self.moco.temperature * math.log(self.batch_size)

    @property
    def smallest_batch(self) -> int:
        return 1 if self.moco.version == 2 else 2

    def check(self) -> None:
        """Raise UserError, naming the setting, if a value is out of range."""
        super().check()
        if self.moco.version == 2 and self.moco.queue < self.batch_size:
            raise UserError(
                f"moco.queue is {self.moco.queue}, less than the batch of {self.batch_size}: give "
                f"--moco.queue {self.batch_size} or more, or --moco.version 3, which has no queue."
            )
