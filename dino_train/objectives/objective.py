"""The interface between the training loop and a method. Each method has a file in this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Objective(nn.Module, ABC):
    """A method's loss on crops, and the networks that compute it; built from a recipe.

    In each step the loop calls `forward` on every part of the batch, then `before_step`, the optimizer, `health` if the
    step is logged, and `after_step`.
    """

    student: nn.Module
    """The network that the optimizer trains; its `backbone` is a ViT."""
    compilable = True
    """Whether the backbones of its networks, which are its children, can be compiled by `torch.compile`."""
    licenses: tuple[str, ...] = ()
    """Of the weights that a run started from and of those of its teacher; they hold for the student too."""

    def start(self) -> None:
        """Keep what the method needs of the weights that a new run starts from; called when they are loaded."""

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """The method's scheduled values at a step, by name: `forward`, `after_step` and the log get them."""
        return {}

    @abstractmethod
    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Any]:
        """Scalar loss of a part of a batch, and its outputs: a NamedTuple of tensors [n, ...] without gradient.

        `groups` holds normalized float32 crops: the two global crops of all images [2 * B, 3, G, G], crop by crop, then
        the local crops [n * B, 3, L, L], if any. With a `Recipe.stack` of k, k crops take the place of each: those of
        successive frames.
        """

    def before_step(self, epochs: float) -> None:
        """Change the gradients before the optimizer applies them, `epochs` after the start."""

    def after_step(self, outputs: Any, scheduled: Mapping[str, float]) -> None:
        """Update what has no gradient: teacher, center, queue. `outputs` are those of this process's whole batch."""

    @abstractmethod
    def health(self, loss: Tensor, outputs: Any) -> dict[str, float]:
        """Numbers for the log that show whether the method learns, over all processes; `loss` is one of them."""

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint stores of it."""
        return self.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `checkpoint_state` returned."""
        self.load_state_dict(state)
