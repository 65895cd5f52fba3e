"""MoCo: one view identifies another among negatives, which come from a queue (v2: Chen et al. 2020; He et al. 2020,
section 3) or from the batch (v3: Chen et al. 2021, algorithm 1)."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dino_train.machine.distributed import gather_over_processes, mean_over_processes, rank_and_count
from dino_train.objectives.collapse import effective_rank, embedding_std
from dino_train.objectives.networks import Network, copy_weights, count_crops, mlp, student_and_teacher, update_ema
from dino_train.objectives.objective import Objective
from dino_train.objectives.queue import enqueue
from dino_train.objectives.schedules import cosine_schedule
from dino_train.recipes import MocoRecipe


class ContrastiveOutput(NamedTuple):
    """The teacher's outputs for a batch, and which queries identify their key, without gradient."""

    tokens: Tensor
    """[n, C]: the teacher's CLS tokens of the views that it sees."""
    keys: Tensor
    """[n, D]: the head's output for them, normalized."""
    correct: Tensor
    """[m]: 1 if a query's own key is the most similar of all candidates, else 0."""


@torch.no_grad()
def contrastive_health(loss: Tensor, outputs: ContrastiveOutput) -> dict[str, float]:
    """`loss`; `contrastive_accuracy`, the share of queries, 0 to 1, whose most similar candidate is their own key;
    `embedding_std` of the keys, 0 (collapsed) to 1 (random directions); `effective_rank` of the teacher's CLS tokens,
    1 to C."""
    return {
        "loss": mean_over_processes(loss.detach()).item(),
        "contrastive_accuracy": mean_over_processes(outputs.correct.mean()).item(),
        "embedding_std": mean_over_processes(embedding_std(outputs.keys)).item(),
        "effective_rank": mean_over_processes(effective_rank(outputs.tokens)).item(),
    }


class Moco(Objective):
    """What both versions share: student (query encoder), teacher (momentum encoder) and their health."""

    def __init__(self, recipe: MocoRecipe) -> None:
        super().__init__()
        self.config = recipe.moco
        student, teacher = student_and_teacher(recipe)
        if self.config.freeze_patches:
            student.patch_embed.requires_grad_(False)
        width = int(student.embed_dim)
        head = nn.Sequential(OrderedDict(projector=self.projector(width), **self.predictor()))
        self.student = Network(student, head)
        self.teacher = Network(teacher, nn.Sequential(OrderedDict(projector=self.projector(width))))
        copy_weights(self.teacher, self.student)

    @abstractmethod
    def projector(self, width: int) -> nn.Module:
        """Build the head of both networks, for CLS tokens of this width."""

    def predictor(self) -> dict[str, nn.Module]:
        """What the student's head has after its projector, by name."""
        return {}

    def health(self, loss: Tensor, outputs: ContrastiveOutput) -> dict[str, float]:
        """See `contrastive_health`."""
        return contrastive_health(loss, outputs)

    def after_step(self, outputs: ContrastiveOutput, scheduled: Mapping[str, float]) -> None:
        """Update the teacher."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])


class MocoV2(Moco):
    """Version 2: every crop but the second global one is a query for the second one's key, among keys of past batches.

    The heads have no batch norm, nor do ViTs, so the batch need not be shuffled between processes.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, recipe: MocoRecipe) -> None:
        super().__init__(recipe)
        config = self.config
        self.register_buffer("queue", functional.normalize(torch.randn(config.queue, config.out_dim), dim=-1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def projector(self, width: int) -> nn.Module:
        return mlp([width, self.config.hidden_dim, self.config.out_dim])

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Momentum of the teacher's EMA: constant."""
        return {"momentum_teacher": self.config.momentum}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, ContrastiveOutput]:
        first, second = groups[0].chunk(2)
        with torch.no_grad():
            tokens, keys = self.teacher([second])
            keys = functional.normalize(keys, dim=-1)
        _, queries = self.student([first, *groups[1:]])
        views = functional.normalize(queries, dim=-1).chunk(count_crops(groups) - 1)
        loss, correct = queue_loss(views, keys, self.queue, self.config.temperature)
        return loss, ContrastiveOutput(tokens, keys, correct)

    def after_step(self, outputs: ContrastiveOutput, scheduled: Mapping[str, float]) -> None:
        """Update the teacher, and replace the oldest keys in the queue by those of all processes."""
        super().after_step(outputs, scheduled)
        enqueue(self.queue, self.pointer, outputs.keys)


class MocoV3(Moco):
    """Version 3: every crop, through a predictor, is a query for the key of each other global crop, among the
    keys of the batch.

    The heads have batch norm, which takes one view at a time.
    """

    def projector(self, width: int) -> nn.Module:
        hidden, out = self.config.hidden_dim, self.config.out_dim
        return mlp([width, hidden, hidden, out], batch_norm=True, last_norm=True)

    def predictor(self) -> dict[str, nn.Module]:
        hidden, out = self.config.hidden_dim, self.config.out_dim
        return {"predictor": mlp([out, hidden, out], batch_norm=True, last_norm=True)}

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Momentum of the teacher's EMA: rises to 1 along a cosine."""
        return {"momentum_teacher": cosine_schedule(step, steps, self.config.momentum, 1.0)}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, ContrastiveOutput]:
        with torch.no_grad():
            tokens, keys = self.teacher(groups[:1], views=2)
            keys = functional.normalize(keys, dim=-1)
        crops = count_crops(groups)
        _, queries = self.student(groups, views=crops)
        views = functional.normalize(queries, dim=-1).chunk(crops)
        loss, correct = batch_loss(views, keys.chunk(2), self.config.temperature)
        return loss, ContrastiveOutput(tokens, keys, correct)


def moco(recipe: MocoRecipe) -> Moco:
    """Build the version of MoCo that a recipe asks for."""
    return MocoV2(recipe) if recipe.moco.version == 2 else MocoV3(recipe)


def queue_loss(queries: Sequence[Tensor], keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries [B, D] of several crops; positives are the keys [B, D] of the same images, negatives a queue
    [N, D].

    All are normalized; no gradient flows through keys and queue. Returns the mean over crops and batch (He et al. 2020,
    equation 1), and whether each query's own key is the most similar, [crops * B] of 0 and 1.
    """
    keys, queue = keys.detach(), queue.detach()
    stacked = torch.cat(list(queries))
    positives = (stacked * keys.repeat(len(queries), 1)).sum(dim=-1, keepdim=True)
    logits = torch.cat([positives, stacked @ queue.T], dim=-1) / temperature
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return functional.cross_entropy(logits, target), (logits.detach().argmax(dim=-1) == target).float()


def batch_loss(queries: Sequence[Tensor], keys: Sequence[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries [B, D] of all crops, the two global ones first; positives are the keys [B, D] of each other
    global crop, negatives the other keys of the batch, over all processes.

    All are normalized; no gradient flows through keys. Returns twice the mean over pairs of different crops, times
    2 * temperature (with two crops the loss of algorithm 1), and whether each query's own key is the most similar,
    [pairs * B] of 0 and 1.
    """
    losses, correct = [], []
    for t, own in enumerate(keys):
        candidates = gather_over_processes(own)
        target = rank_and_count()[0] * len(own) + torch.arange(len(own), device=own.device)
        for s, query in enumerate(queries):
            if s != t:
                logits = query @ candidates.T / temperature
                losses.append(2 * temperature * functional.cross_entropy(logits, target))
                correct.append((logits.detach().argmax(dim=-1) == target).float())
    return 2 * torch.stack(losses).mean(), torch.cat(correct)
