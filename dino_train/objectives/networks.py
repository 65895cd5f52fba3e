"""The networks of the self-supervised methods: a backbone with a head, and a teacher that is updated from a student."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dino_train.models.backbones import build_backbone
from dino_train.recipes import Recipe


class Network(nn.Module):
    """A backbone and a head: a student or a teacher.

    Takes groups of crops, each of one size, [n * B, 3, S, S]; each group passes through the backbone at once. Returns
    the CLS tokens [crops * B, C] and the head's output [crops * B, D], float32. The tokens pass through the head in
    `views` parts: one per crop if batch norm must not mix crops.
    """

    def __init__(self, backbone: VisionTransformer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, groups: list[Tensor], views: int = 1) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([self.backbone(group) for group in groups]).float()
        # The head runs in fp32: at a temperature of 0.02, the rounding of bf16's eight bits would be noise.
        with torch.autocast(tokens.device.type, enabled=False):
            return tokens, torch.cat([self.head(part) for part in tokens.chunk(views)])


def mlp(widths: Sequence[int], batch_norm: bool = False, last_norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, each preceded by batch norm if `batch_norm`.

    `last_norm` adds a batch norm without weights at the end.
    """
    layers: list[nn.Module] = []
    for start, end in pairwise(widths):
        norm = [nn.BatchNorm1d(end)] if batch_norm else []
        layers += [nn.Linear(start, end, bias=not batch_norm), *norm, nn.ReLU(inplace=True)]
    last = nn.Linear(widths[-2], widths[-1], bias=not last_norm)
    return nn.Sequential(*layers[: -2 - batch_norm], last, *([nn.BatchNorm1d(widths[-1], affine=False)] * last_norm))


def student_and_teacher(recipe: Recipe) -> tuple[VisionTransformer, VisionTransformer]:
    """Build a backbone for each; the teacher's has no stochastic depth."""
    size = recipe.crops.global_crops_size
    student = build_backbone(recipe.backbone, size, drop_path_rate=recipe.backbone.drop_path_rate)
    return student, build_backbone(recipe.backbone, size, download=False)


def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Update the teacher by an exponential moving average: momentum * teacher + (1 - momentum) * student.

    The student may have parameters that the teacher lacks, such as a predictor's.
    """
    sources = dict(student.named_parameters())
    targets = dict(teacher.named_parameters())
    get_ema_multi_avg_fn(momentum)(list(targets.values()), [sources[name] for name in targets], 0)


def copy_weights(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the student's weights into the teacher, and freeze the teacher."""
    weights = student.state_dict()
    teacher.load_state_dict({name: weights[name] for name in teacher.state_dict()})
    teacher.requires_grad_(False)


def count_crops(groups: Sequence[Tensor]) -> int:
    """Number of crops per image; the first group holds the two global crops."""
    return 2 * sum(map(len, groups)) // len(groups[0])
