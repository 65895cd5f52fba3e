"""Distillation: a small student learns the features and the CLS attention of a frozen teacher, without labels.

On the same crops, patch and CLS tokens are compared by cosine, attention by KL divergence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dino_ros.errors import UserError
from dino_train.machine.distributed import mean_over_processes
from dino_train.models.backbones import VitOutputs, build_backbone, mean_and_std, patch_size
from dino_train.models.fewer_blocks import copy_blocks
from dino_train.models.weights import open_weights, weights_hash
from dino_train.objectives.collapse import effective_rank
from dino_train.objectives.objective import Objective
from dino_train.recipes import DistillRecipe

log = logging.getLogger(__name__)

TEACHER = "teacher."
"""Prefix of the teacher's weights."""
FROM_TEACHER = "teacher"
"""The recipe's `init` that takes blocks of the teacher."""


class Agreement(NamedTuple):
    """Agreement of student and teacher on each of n crops."""

    patches: Tensor
    """[n]: mean cosine of the patch tokens, -1 to 1."""
    cls: Tensor
    """[n]: cosine of the CLS tokens, -1 to 1."""
    divergence: Tensor
    """[n]: KL divergence of the attention, nats."""
    tokens: Tensor
    """[n, C]: the student's CLS tokens."""


class StudentNetwork(nn.Module):
    """A backbone, and a projection of its tokens to the teacher's width where the two differ.

    The projection serves training alone: only the backbone is exported, so a robot's features stay narrow. A student
    as wide as its teacher has no projection, and can replace the teacher where features were stored.
    """

    def __init__(self, backbone: VisionTransformer, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        own = int(backbone.embed_dim)
        self.projection = nn.Identity() if own == width else nn.Linear(own, width)


class Distill(Objective):
    """Student, frozen teacher, and the loss between them, `distill_loss`.

    If the teacher has another patch size, it sees each crop resized to as many patches as the student has. Raises
    UserError for a teacher that cannot be opened.
    """

    compilable = False  # compiled code would not expose the attention

    def __init__(self, recipe: DistillRecipe) -> None:
        super().__init__()
        self.config = recipe.distill
        backbone = build_backbone(
            recipe.backbone, recipe.crops.global_crops_size, drop_path_rate=recipe.backbone.drop_path_rate
        )
        teacher = open_weights(recipe.teacher)
        self.teacher, self.licenses = teacher.vit.requires_grad_(False), (teacher.license,)
        self.teacher_name, self.teacher_sha256 = recipe.teacher, weights_hash(self.teacher)
        self.student = StudentNetwork(backbone, int(self.teacher.embed_dim))
        # A tuple, so that the networks they view are not registered twice.
        self._views = (VitOutputs(backbone), VitOutputs(self.teacher))
        self._patches = (patch_size(backbone), patch_size(self.teacher))
        (mean, std), (teacher_mean, teacher_std) = mean_and_std(backbone), mean_and_std(self.teacher)
        self._scale = [a / b for a, b in zip(std, teacher_std, strict=True)]
        self._shift = [(a - b) / c for a, b, c in zip(mean, teacher_mean, teacher_std, strict=True)]

    def start_from(self, init: str) -> None:
        """Copy blocks of the teacher ("teacher"), or of another encoder, to the student; raises UserError, see
        `copy_blocks`."""
        source = self.teacher
        if init != FROM_TEACHER:
            opened = open_weights(init)
            source = opened.vit
            self.licenses += (opened.license,)
        blocks = copy_blocks(cast(VisionTransformer, self.student.backbone), source)
        log.info("The student starts from the blocks %s of %d.", ", ".join(map(str, blocks)), len(source.blocks))

    def train(self, mode: bool = True) -> Distill:
        """Set the mode of the student; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Agreement]:
        """Scalar loss, the mean over all crops, and the agreement on each crop; see `Objective`."""
        losses, agreements = [], []
        for crops in groups:
            with torch.no_grad():
                teacher = self._views[1](self.for_teacher(crops))
            student = self._views[0](crops)
            # In fp32 whatever the networks' precision: bf16's eight bits cannot hold cosines near 1.
            with torch.autocast(crops.device.type, enabled=False):
                features, attention, cls = (output.float() for output in student)
                project: Any = self.student.projection
                projected = project(features), attention, project(cls)
                agreement = agree(projected, tuple(output.float() for output in teacher), cls)
                losses.append(distill_loss(agreement, self.config.patches, self.config.cls, self.config.attention))
            agreements.append(agreement)
        loss = torch.cat(losses).mean()
        return loss, Agreement(*(torch.cat(parts).detach() for parts in zip(*agreements, strict=True)))

    def for_teacher(self, crops: Tensor) -> Tensor:
        """Normalize and resize crops [n, 3, S, S] for the teacher; they come normalized for the student."""
        scale, shift = (
            torch.tensor(values, device=crops.device).view(1, 3, 1, 1) for values in (self._scale, self._shift)
        )
        crops = crops * scale + shift
        patch, teacher_patch = self._patches
        if patch == teacher_patch:
            return crops
        size = [side // patch * teacher_patch for side in crops.shape[-2:]]
        return functional.interpolate(crops, size, mode="bicubic", antialias=True)

    @torch.no_grad()
    def health(self, loss: Tensor, outputs: Agreement) -> dict[str, float]:
        """`loss`; `cosine` of patch tokens and `cls_cosine`, -1 to 1; `attention_kl`, nats; `effective_rank` of the
        student's CLS tokens, 1 to C."""
        return {
            "loss": mean_over_processes(loss.detach()).item(),
            "cosine": mean_over_processes(outputs.patches.mean()).item(),
            "cls_cosine": mean_over_processes(outputs.cls.mean()).item(),
            "attention_kl": mean_over_processes(outputs.divergence.mean()).item(),
            "effective_rank": mean_over_processes(effective_rank(outputs.tokens)).item(),
        }

    def checkpoint_state(self) -> dict[str, Any]:
        """The student and its projection, and the hash of the teacher's weights, which do not change."""
        student = {name: value for name, value in self.state_dict().items() if not name.startswith(TEACHER)}
        return {**student, "teacher_sha256": self.teacher_sha256}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `checkpoint_state` returned; raises UserError if the teacher is no longer the same."""
        if state["teacher_sha256"] != self.teacher_sha256:
            raise UserError(
                f"The teacher {self.teacher_name} has changed since the run began: restore its weights, or start a new "
                "run."
            )
        student = {name: value for name, value in state.items() if name != "teacher_sha256"}
        self.load_state_dict({**self.state_dict(), **student})


def agree(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], tokens: Tensor) -> Agreement:
    """Compare features [n, h, w, C], attention [n, heads, h, w] and CLS tokens [n, C] of two networks, with gradient.

    `tokens` are the student's CLS tokens, kept as they are. Attention is compared over the patches alone, without CLS
    and registers, because masks are made of that: head by head if both networks have as many heads, otherwise by the
    mean over heads. The divergence is KL(teacher || student).
    """
    features = functional.cosine_similarity(student[0], teacher[0], dim=-1).mean(dim=(1, 2))
    cls = functional.cosine_similarity(student[2], teacher[2], dim=-1)
    p, q = teacher[1].flatten(2), student[1].flatten(2)
    if p.shape[1] != q.shape[1]:
        p, q = p.mean(dim=1, keepdim=True), q.mean(dim=1, keepdim=True)
    p, q = (a.clamp(min=1e-12) / a.clamp(min=1e-12).sum(dim=-1, keepdim=True) for a in (p, q))
    divergence = (p * (p.log() - q.log())).sum(dim=-1).mean(dim=1)
    return Agreement(features, cls, divergence, tokens)


def distill_loss(agreement: Agreement, patches: float, cls: float, attention: float) -> Tensor:
    """Loss [n] of each crop: weighted sum of 1 - cosine, for patch and CLS tokens, and the attention's divergence."""
    return patches * (1 - agreement.patches) + cls * (1 - agreement.cls) + attention * agreement.divergence
