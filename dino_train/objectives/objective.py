"""What the training loop asks of a method; each method is a file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Objective(nn.Module, ABC):
    """A loss on crops, and the networks that it is computed with.

    Built from a recipe. Each step the loop calls it on every part of the batch, and then `before_step`, `health` where
    a line is logged, and `after_step`.
    """

    student: nn.Module
    """What the optimizer trains. Its `backbone` is the ViT that is kept."""
    compilable = True
    """Whether `torch.compile` may take the backbones of its networks, which are its children."""

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """What changes from step to step, by name; `forward` and `after_step` get it, and the log."""
        return {}

    @abstractmethod
    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Any]:
        """Scalar loss of a part of a batch, and what was said of it: a NamedTuple of tensors [n, ...], no gradient.

        `groups` are normalized float32 crops: the two global ones of all images [2 * B, 3, G, G], crop by crop, then
        the local ones [n * B, 3, L, L], if any.
        """

    def before_step(self, epochs: float) -> None:
        """Change the gradients that the optimizer is about to apply, `epochs` after the start."""

    def after_step(self, said: Any, scheduled: Mapping[str, float]) -> None:
        """Move what no gradient moves; `said` is of the whole batch of this process."""

    @abstractmethod
    def health(self, loss: Tensor, said: Any) -> dict[str, float]:
        """What tells whether it learns, over all processes: `loss`, and numbers of the method's own."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.state_dict()

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.load_state_dict(kept)
