"""CURL: a stack of frames identifies another crop of itself by a bilinear similarity (Srinivas et al. 2020, section
4).

The authors stack the frames' channels before a convolutional encoder. Here the ViT sees one frame at a time and their
CLS tokens are stacked: so the student that is exported takes single images, as every other one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dino_train.machine.distributed import gather_over_processes, rank_and_count
from dino_train.objectives.moco import ContrastiveOutput, contrastive_health
from dino_train.objectives.networks import Network, copy_weights, count_crops, student_and_teacher, update_ema
from dino_train.objectives.objective import Objective
from dino_train.recipes import CurlConfig, CurlRecipe


class StackNetwork(Network):
    """A backbone, and a head that takes the CLS tokens of a stack's frames together: a linear layer, a layer norm."""

    def __init__(self, backbone: VisionTransformer, config: CurlConfig) -> None:
        width = config.frames * int(backbone.embed_dim)
        super().__init__(backbone, nn.Sequential(nn.Linear(width, config.out_dim), nn.LayerNorm(config.out_dim)))
        self.frames = config.frames

    def forward(self, groups: list[Tensor], views: int = 1) -> tuple[Tensor, Tensor]:
        """CLS tokens [views * frames * B, C] and the head's output for each stack [views * B, D], float32.

        `groups` holds the crops of `views` views, view by view, and in each frame by frame.
        """
        tokens = torch.cat([self.backbone(group) for group in groups]).float()
        with torch.autocast(tokens.device.type, enabled=False):
            stacks = tokens.unflatten(0, (views, self.frames, -1)).transpose(1, 2).flatten(2)
            return tokens, self.head(stacks.flatten(0, 1))


class CurlStudent(StackNetwork):
    """A student has the similarity's matrix [D, D] as well, drawn from 0 to 1 as the authors do."""

    def __init__(self, backbone: VisionTransformer, config: CurlConfig) -> None:
        super().__init__(backbone, config)
        self.similarity = nn.Parameter(torch.rand(config.out_dim, config.out_dim))


class Curl(Objective):
    """Student (query encoder) and teacher (momentum or key encoder), whose moving average has a constant momentum.

    The second global crop of a stack is the key. Every other crop is a query for it among the keys of the batch.
    """

    student: CurlStudent

    def __init__(self, recipe: CurlRecipe) -> None:
        super().__init__()
        self.config = recipe.curl
        student, teacher = student_and_teacher(recipe)
        self.student = CurlStudent(student, self.config)
        self.teacher = StackNetwork(teacher, self.config)
        copy_weights(self.teacher, self.student)

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Momentum of the teacher's EMA: constant."""
        return {"momentum_teacher": self.config.momentum}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, ContrastiveOutput]:
        first, second = groups[0].chunk(2)
        with torch.no_grad():
            tokens, keys = self.teacher([second])
        views = count_crops(groups) - 1
        _, queries = self.student([first, *groups[1:]], views)
        with torch.autocast(keys.device.type, enabled=False):
            loss, correct = bilinear_loss(queries.chunk(views), keys, self.student.similarity)
        return loss, ContrastiveOutput(tokens, functional.normalize(keys, dim=-1), correct)

    def health(self, loss: Tensor, outputs: ContrastiveOutput) -> dict[str, float]:
        """See `contrastive_health`."""
        return contrastive_health(loss, outputs)

    def after_step(self, outputs: ContrastiveOutput, scheduled: Mapping[str, float]) -> None:
        """Update the teacher."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])


def bilinear_loss(queries: Sequence[Tensor], keys: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries q [B, D] of several crops with the logits q W k; positives are the keys k [B, D] of the same
    images, negatives the other keys of the batch, over all processes.

    `similarity` is W [D, D]; no gradient flows through keys. Returns the mean over crops and batch, and
    whether each query's own key is the most similar, [crops * B] of 0 and 1.
    """
    candidates = gather_over_processes(keys)
    target = rank_and_count()[0] * len(keys) + torch.arange(len(keys), device=keys.device)
    target = target.repeat(len(queries))
    logits = torch.cat(list(queries)) @ similarity @ candidates.T
    return functional.cross_entropy(logits, target), (logits.detach().argmax(dim=-1) == target).float()
