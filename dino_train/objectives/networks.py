"""The networks of the self-supervised methods: a backbone with a head, and the teacher that follows a student."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from dino_train.models.backbones import build_backbone
from dino_train.recipes import Recipe


class Network(nn.Module):
    """A backbone and its head: what student and teacher are.

    Takes groups of crops of one size each, [n * B, 3, S, S]; each group goes through the backbone in one pass. Returns
    the CLS tokens [crops * B, C] and what the head makes of them [crops * B, D], float32. `views` parts of the tokens
    go through the head one after the other: one for each crop where batch norm must not mix them.
    """

    def __init__(self, backbone: VisionTransformer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, groups: list[Tensor], views: int = 1) -> tuple[Tensor, Tensor]:
        """See the class."""
        tokens = torch.cat([self.backbone(group) for group in groups]).float()
        # In fp32 whatever the backbone's precision: a temperature of 0.02 makes noise of bf16's eight bits.
        with torch.autocast(tokens.device.type, enabled=False):
            return tokens, torch.cat([self.head(part) for part in tokens.chunk(views)])


def mlp(widths: Sequence[int], batch_norm: bool = False, last_norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, after batch norm if that is asked for.

    `last_norm` ends with a batch norm that has no weights.
    """
    layers: list[nn.Module] = []
    for start, end in pairwise(widths):
        norm = [nn.BatchNorm1d(end)] if batch_norm else []
        layers += [nn.Linear(start, end, bias=not batch_norm), *norm, nn.ReLU(inplace=True)]
    last = nn.Linear(widths[-2], widths[-1], bias=not last_norm)
    return nn.Sequential(*layers[: -2 - batch_norm], last, *([nn.BatchNorm1d(widths[-1], affine=False)] * last_norm))


def student_and_teacher(recipe: Recipe) -> tuple[VisionTransformer, VisionTransformer]:
    """The backbones of both; the teacher has no stochastic depth."""
    size = recipe.crops.global_crops_size
    student = build_backbone(recipe.backbone, size, drop_path_rate=recipe.backbone.drop_path_rate)
    return student, build_backbone(recipe.backbone, size, download=False)


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher towards the student: teacher = momentum * teacher + (1 - momentum) * student.

    The student may have parameters that the teacher lacks, such as a predictor's.
    """
    students = dict(student.named_parameters())
    ours = dict(teacher.named_parameters())
    torch._foreach_lerp_(list(ours.values()), [students[name] for name in ours], 1 - momentum)


def copy_weights(teacher: nn.Module, student: nn.Module) -> None:
    """Give the teacher the student's weights, and no gradient."""
    theirs = student.state_dict()
    teacher.load_state_dict({name: theirs[name] for name in teacher.state_dict()})
    teacher.requires_grad_(False)


def count_crops(groups: Sequence[Tensor]) -> int:
    """Crops per image, of groups whose first holds two."""
    return 2 * sum(map(len, groups)) // len(groups[0])
