"""Recipes of BYOL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class ByolConfig:
    """BYOL: two networks and a predictor, without negatives (Grill et al. 2020, section 3 and appendix)."""

    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor. Lower it, as to 512, with a small ViT."""
    out_dim: int = 256
    """Output dimensions of projector and predictor. Seldom changed."""
    momentum: float = 0.996
    """EMA momentum of the teacher (target network) at the start; rises to 1 along a cosine. Lower it for short runs."""


@dataclass
class ByolRecipe(PretrainRecipe):
    """A recipe of BYOL."""

    method: ClassVar[str] = "byol"
    exported: ClassVar[Literal["teacher", "student"]] = "student"
    when_collapsed: ClassVar[str] = "raise --byol.momentum, or lower --optimizer.lr"

    byol: ByolConfig = field(default_factory=ByolConfig)

    @property
    def smallest_batch(self) -> int:
        return 2
