"""BYOL: a student predicts its own moving average's projection of another view (Grill et al. 2020, section 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dino_train.machine.distributed import mean_over_processes
from dino_train.objectives.collapse import effective_rank, embedding_std
from dino_train.objectives.networks import Network, copy_weights, count_crops, mlp, student_and_teacher, update_ema
from dino_train.objectives.objective import Objective
from dino_train.objectives.schedules import cosine_schedule
from dino_train.recipes import ByolRecipe


class TeacherOutput(NamedTuple):
    """The teacher's outputs for the two global crops of a batch, without gradient."""

    tokens: Tensor
    """[2 * B, C]: CLS tokens."""
    projections: Tensor
    """[2 * B, D]"""


class Byol(Objective):
    """Student (online network) with a projector and a predictor, teacher (target network) with a projector.

    The student sees all crops, the teacher the two global ones. The teacher has no gradient: it is the exponential
    moving average of the student. Batch norm in the heads takes one view at a time.
    """

    def __init__(self, recipe: ByolRecipe) -> None:
        super().__init__()
        self.config = config = recipe.byol
        student, teacher = student_and_teacher(recipe)
        widths = [int(student.embed_dim), config.hidden_dim, config.out_dim]

        def projector() -> nn.Module:
            return mlp(widths, batch_norm=True)

        predictor = mlp([config.out_dim, config.hidden_dim, config.out_dim], batch_norm=True)
        self.student = Network(student, nn.Sequential(OrderedDict(projector=projector(), predictor=predictor)))
        self.teacher = Network(teacher, nn.Sequential(OrderedDict(projector=projector())))
        copy_weights(self.teacher, self.student)

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Momentum of the teacher's EMA: rises to 1 along a cosine."""
        return {"momentum_teacher": cosine_schedule(step, steps, self.config.momentum, 1.0)}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, TeacherOutput]:
        with torch.no_grad():
            tokens, projections = self.teacher(groups[:1], views=2)
        crops = count_crops(groups)
        _, predictions = self.student(groups, views=crops)
        return byol_loss(projections.chunk(2), predictions.chunk(crops)), TeacherOutput(tokens, projections)

    @torch.no_grad()
    def health(self, loss: Tensor, outputs: TeacherOutput) -> dict[str, float]:
        """`loss`, 0 (views agree) to 8; `embedding_std` of the teacher's projections, 0 (collapsed) to 1 (random
        directions); `effective_rank` of its CLS tokens, 1 to C."""
        return {
            "loss": mean_over_processes(loss.detach()).item(),
            "embedding_std": mean_over_processes(embedding_std(outputs.projections)).item(),
            "effective_rank": mean_over_processes(effective_rank(outputs.tokens)).item(),
        }

    def after_step(self, outputs: TeacherOutput, scheduled: Mapping[str, float]) -> None:
        """Update the teacher."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])


def byol_loss(projections: Sequence[Tensor], predictions: Sequence[Tensor]) -> Tensor:
    """Squared distance between the normalized predictions [B, D] of all crops, the two global ones first, and the
    normalized projections [B, D] of the two global crops, through which no gradient flows.

    Twice the mean over the pairs of different crops: with two crops, the symmetric loss of equation 2.
    """
    terms = [
        2 - 2 * functional.cosine_similarity(prediction, projection.detach(), dim=-1).mean()
        for t, projection in enumerate(projections)
        for s, prediction in enumerate(predictions)
        if s != t
    ]
    return 2 * torch.stack(terms).mean()
