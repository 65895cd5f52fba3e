"""SwAV: one view predicts the assignment of another view to prototypes (Caron et al. 2020, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dino_train.machine.distributed import mean_over_processes, rank_and_count
from dino_train.models.backbones import build_backbone
from dino_train.objectives.collapse import effective_rank, entropies
from dino_train.objectives.networks import Network, count_crops, mlp
from dino_train.objectives.objective import Objective
from dino_train.objectives.queue import enqueue
from dino_train.objectives.sinkhorn import sinkhorn
from dino_train.recipes import SwavConfig, SwavRecipe


class Assignments(NamedTuple):
    """Embeddings of the two global crops of a batch and their assignments to prototypes, without gradient."""

    tokens: Tensor
    """[B, 2, C]: CLS tokens."""
    embeddings: Tensor
    """[B, 2, D]: the head's output, normalized."""
    codes: Tensor
    """[B, 2, K]: shares of the K prototypes, which sum to 1."""


class SwavNetwork(Network):
    """A backbone, a head and prototypes [K, D] of unit norm. The head's batch norm takes all crops together."""

    def __init__(self, backbone: VisionTransformer, config: SwavConfig) -> None:
        super().__init__(backbone, mlp([int(backbone.embed_dim), config.hidden_dim, config.out_dim], batch_norm=True))
        self.prototypes = nn.Linear(config.out_dim, config.prototypes, bias=False)


class Swav(Objective):
    """One network, its prototypes, and a queue of past embeddings of the two global crops."""

    student: SwavNetwork
    queue: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, recipe: SwavRecipe) -> None:
        super().__init__()
        self.config = config = recipe.swav
        backbone = build_backbone(
            recipe.backbone, recipe.crops.global_crops_size, drop_path_rate=recipe.backbone.drop_path_rate
        )
        self.student = SwavNetwork(backbone, config)
        self.normalize_prototypes()
        self.register_buffer("queue", torch.zeros(config.queue, 2, config.out_dim))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Whether the queue is used (once it is full): 0 or 1."""
        return {"uses_queue": float(step >= self.config.queue_from_epochs * steps_per_epoch)}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Assignments]:
        crops = count_crops(groups)
        tokens, embeddings = self.student(groups)
        with torch.autocast(tokens.device.type, enabled=False):
            embeddings = functional.normalize(embeddings, dim=-1)
            scores = self.student.prototypes(embeddings).chunk(crops)
        codes = [self.assign(view, t, bool(scheduled["uses_queue"])) for t, view in enumerate(scores[:2])]
        tokens, embeddings = (torch.stack(x.detach().chunk(crops)[:2], dim=1) for x in (tokens, embeddings))
        outputs = Assignments(tokens, embeddings, torch.stack(codes, dim=1))
        return swav_loss(codes, scores, self.config.temperature), outputs

    @torch.no_grad()
    def assign(self, scores: Tensor, view: int, uses_queue: bool) -> Tensor:
        """Assign one view, with scores [B, K], to the prototypes, together with its queue if used: codes [B, K]."""
        if uses_queue and self.filled:
            rank, count = rank_and_count()
            past = self.student.prototypes(self.queue[rank::count, view])  # each process takes its share of the queue
            scores, own = torch.cat([scores, past]), len(scores)
            return sinkhorn(scores, self.config.epsilon, self.config.iterations)[:own]
        return sinkhorn(scores, self.config.epsilon, self.config.iterations)

    @torch.no_grad()
    def health(self, loss: Tensor, outputs: Assignments) -> dict[str, float]:
        """`entropies` of the codes; `effective_rank` of the CLS tokens, 1 to C."""
        return {
            **entropies(loss, outputs.codes.flatten(0, 1)),
            "effective_rank": mean_over_processes(effective_rank(outputs.tokens.flatten(0, 1))).item(),
        }

    def before_step(self, epochs: float) -> None:
        """Freeze the prototypes for the first epochs by dropping their gradients."""
        if epochs < self.config.freeze_prototypes_epochs:
            self.student.prototypes.weight.grad = None

    @torch.no_grad()
    def after_step(self, outputs: Assignments, scheduled: Mapping[str, float]) -> None:
        """Normalize the prototypes, and replace the oldest embeddings in the queue by those of all processes."""
        self.normalize_prototypes()
        if len(self.queue):
            written = enqueue(self.queue, self.pointer, outputs.embeddings)
            self.filled |= self.pointer < written  # the pointer has passed the end, or stands at the start again

    @torch.no_grad()
    def normalize_prototypes(self) -> None:
        weight = self.student.prototypes.weight
        weight.copy_(functional.normalize(weight, dim=-1))


def swav_loss(codes: Sequence[Tensor], scores: Sequence[Tensor], temperature: float) -> Tensor:
    """Cross-entropy between the codes [B, K] of each global crop and the softmax of the scores of every other crop.

    `scores` holds the scores [B, K] of all crops, the two global ones first. Mean over the pairs of different crops and
    over the batch (equations 1 and 2; section 3.3 for more than two crops).
    """
    terms = [
        -(code * functional.log_softmax(score / temperature, dim=-1)).sum(dim=-1).mean()
        for t, code in enumerate(codes)
        for s, score in enumerate(scores)
        if s != t
    ]
    return torch.stack(terms).mean()
