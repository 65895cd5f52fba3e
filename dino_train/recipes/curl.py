"""Recipes of CURL."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class CurlConfig:
    """CURL: a stack of frames identifies another crop of itself in the batch (Srinivas et al. 2020)."""

    frames: int = 3
    """Successive frames of a bag or video in a stack, with the same crop of each; the first of a shot, and images of
    other data, are repeated. 1 for photographs, of which repetitions teach nothing and cost as much."""
    out_dim: int = 50
    """Output dimensions of the heads. Seldom changed."""
    momentum: float = 0.95
    """EMA momentum of the teacher (key encoder). Raise it, as to 0.99, for long runs."""


@dataclass
class CurlRecipe(PretrainRecipe):
    """A recipe of CURL."""

    method: ClassVar[str] = "curl"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_uniform: ClassVar[str] = (
        "make crops of an image more similar (raise the lower end of --crops.global_crops_scale, lower --crops.color)"
    )

    curl: CurlConfig = field(default_factory=CurlConfig)

    @property
    def chance_loss(self) -> float:
        """ln B, nats."""
        return math.log(self.batch_size)

    @property
    def smallest_batch(self) -> int:
        return 2

    @property
    def stack(self) -> int:
        return self.curl.frames
