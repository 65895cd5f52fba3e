"""MoCo: a view is found by another one among negatives, from a queue (v2, Chen et al. 2020; He et al. 2020, section 3)
or from the batch (v3, Chen et al. 2021, algorithm 1)."""

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
from dino_train.objectives.schedules import cosine_schedule
from dino_train.recipes import MocoRecipe


class Found(NamedTuple):
    """What the teacher made of one batch, and whether the student found it, without gradient."""

    tokens: Tensor
    """[n, C]: the teacher's CLS tokens, of the views that it sees."""
    keys: Tensor
    """[n, D]: what the head made of them, normalized."""
    found: Tensor
    """[m]: 1 where the right key is the most similar one to a query, else 0."""


class Moco(Objective):
    """What both versions have: student (query encoder) and teacher (momentum encoder), and how they are watched."""

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
        """What both networks make of a CLS token of that width."""

    def predictor(self) -> dict[str, nn.Module]:
        """What the student's head has beside it."""
        return {}

    @torch.no_grad()
    def health(self, loss: Tensor, said: Found) -> dict[str, float]:
        """`loss`; `found`: share of the queries, 0 to 1, whose most similar candidate is the right one; `spread` of the
        keys, 0 where they have collapsed, 1 as of random directions; `effective_rank` of the teacher's CLS tokens."""
        return {
            "loss": mean_over_processes(loss.detach()).item(),
            "contrastive_accuracy": mean_over_processes(said.found.mean()).item(),
            "embedding_std": mean_over_processes(embedding_std(said.keys)).item(),
            "effective_rank": mean_over_processes(effective_rank(said.tokens)).item(),
        }

    def after_step(self, said: Found, scheduled: Mapping[str, float]) -> None:
        """Move the teacher."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])


class MocoV2(Moco):
    """All crops but the second global one look for its key, among the keys of past batches.

    The heads have no batch norm, as ViTs have none: then there is no need to shuffle the batch between processes.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, recipe: MocoRecipe) -> None:
        super().__init__(recipe)
        config = self.config
        self.register_buffer("queue", functional.normalize(torch.randn(config.queue, config.out_dim), dim=-1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def projector(self, width: int) -> nn.Module:
        """Two layers."""
        return mlp([width, self.config.hidden_dim, self.config.out_dim])

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """The EMA that moves the teacher, which is constant."""
        return {"momentum_teacher": self.config.momentum}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Found]:
        """Scalar loss of one batch, and what was found; see `Objective`. `after_step` moves the queue."""
        first, second = groups[0].chunk(2)
        with torch.no_grad():
            tokens, keys = self.teacher([second])
            keys = functional.normalize(keys, dim=-1)
        _, queries = self.student([first, *groups[1:]])
        views = functional.normalize(queries, dim=-1).chunk(count_crops(groups) - 1)
        loss, found = queue_loss(views, keys, self.queue, self.config.temperature)
        return loss, Found(tokens, keys, found)

    def after_step(self, said: Found, scheduled: Mapping[str, float]) -> None:
        """Move the teacher, and put the keys of all processes into the queue, over the oldest ones."""
        super().after_step(said, scheduled)
        keys = gather_over_processes(said.keys)
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.pointer.copy_((self.pointer + len(keys)) % len(self.queue))


class MocoV3(Moco):
    """Every crop looks for the key of the other global crop, through a predictor, among the keys of the batch.

    The heads have batch norm, over one view at a time.
    """

    def projector(self, width: int) -> nn.Module:
        """Three layers."""
        hidden, out = self.config.hidden_dim, self.config.out_dim
        return mlp([width, hidden, hidden, out], batch_norm=True, last_norm=True)

    def predictor(self) -> dict[str, nn.Module]:
        """Two layers."""
        hidden, out = self.config.hidden_dim, self.config.out_dim
        return {"predictor": mlp([out, hidden, out], batch_norm=True, last_norm=True)}

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """The EMA that moves the teacher: to 1 along a cosine."""
        return {"momentum_teacher": cosine_schedule(step, steps, self.config.momentum, 1.0)}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Found]:
        """Scalar loss of one batch, and what was found; see `Objective`."""
        with torch.no_grad():
            tokens, keys = self.teacher(groups[:1], views=2)
            keys = functional.normalize(keys, dim=-1)
        crops = count_crops(groups)
        _, queries = self.student(groups, views=crops)
        views = functional.normalize(queries, dim=-1).chunk(crops)
        loss, found = batch_loss(views, keys.chunk(2), self.config.temperature)
        return loss, Found(tokens, keys, found)


def moco(recipe: MocoRecipe) -> Moco:
    """The version that a recipe is of."""
    return MocoV2(recipe) if recipe.moco.version == 2 else MocoV3(recipe)


def queue_loss(queries: Sequence[Tensor], keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries [B, D] of several crops for the keys [B, D] of the same images, among a queue [N, D].

    All are normalized; no gradient through keys and queue. Mean over crops and batch (He et al. 2020, equation 1); also
    which queries are nearest to their key, [crops * B] of 0 and 1.
    """
    keys, queue = keys.detach(), queue.detach()
    every = torch.cat(list(queries))
    right = (every * keys.repeat(len(queries), 1)).sum(dim=-1, keepdim=True)
    logits = torch.cat([right, every @ queue.T], dim=-1) / temperature
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return functional.cross_entropy(logits, target), (logits.detach().argmax(dim=-1) == target).float()


def batch_loss(queries: Sequence[Tensor], keys: Sequence[Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries [B, D] of all crops, the two global ones first, for the key [B, D] of the other global crop.

    All are normalized; the keys of all processes are candidates, and have no gradient. Twice the mean over pairs of
    different crops, times 2 * temperature: with two crops the loss of algorithm 1. Also which queries are nearest to
    their key, [pairs * B] of 0 and 1.
    """
    losses, found = [], []
    for t, own in enumerate(keys):
        candidates = gather_over_processes(own)
        target = rank_and_count()[0] * len(own) + torch.arange(len(own), device=own.device)
        for s, query in enumerate(queries):
            if s != t:
                logits = query @ candidates.T / temperature
                losses.append(2 * temperature * functional.cross_entropy(logits, target))
                found.append((logits.detach().argmax(dim=-1) == target).float())
    return 2 * torch.stack(losses).mean(), torch.cat(found)
