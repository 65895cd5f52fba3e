"""DINO: self-distillation with no labels (Caron et al. 2021, section 3 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from dino_train.machine.distributed import mean_over_processes
from dino_train.objectives.collapse import effective_rank, entropies
from dino_train.objectives.networks import Network, copy_weights, count_crops, mlp, student_and_teacher, update_ema
from dino_train.objectives.objective import Objective
from dino_train.objectives.schedules import cosine_schedule, epoch_schedule
from dino_train.objectives.sinkhorn import sinkhorn
from dino_train.recipes import DinoConfig, DinoRecipe, resolved

REFERENCE_WIDTH = 2048
"""Width of the reference's head; with a head of this width or more, head and CLS token are initialized as there."""


class DinoHead(nn.Module):
    """Projection head: three layers with GELU, an L2-normalized bottleneck and a weight-normalized last layer.

    Takes [B, C] and returns logits [B, K] (section 3.2 and appendix C). A `predictor` (section 5.1) adds two layers
    before the normalization; the paper does not say where it puts them.
    """

    def __init__(self, in_dim: int, config: DinoConfig, predictor: bool = False) -> None:
        super().__init__()

        def hidden(width: int) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(config.hidden_dim)] if config.use_bn_in_head else []
            return [nn.Linear(width, config.hidden_dim), *norm, nn.GELU()]

        self.mlp = nn.Sequential(
            *hidden(in_dim), *hidden(config.hidden_dim), nn.Linear(config.hidden_dim, config.bottleneck_dim)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                # The reference's 0.02 suits its 2048 channels; in narrower heads the biases would drown the signal.
                narrow = config.hidden_dim < REFERENCE_WIDTH
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5 if narrow else 0.02)
                nn.init.zeros_(layer.bias)
        width = config.bottleneck_dim
        self.predictor = mlp([width, config.hidden_dim, width]) if predictor else nn.Identity()
        last = nn.Linear(width, resolved(config.out_dim), bias=False)
        self.last_layer = parametrizations.weight_norm(last)
        norms: Any = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(norms)
        norms.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last_layer(functional.normalize(self.predictor(self.mlp(x)), dim=-1))
        return logits


class TeacherOutput(NamedTuple):
    """The teacher's outputs for the two global crops of a batch, without gradient."""

    tokens: Tensor
    """[2 * B, C]: CLS tokens."""
    logits: Tensor
    """[2 * B, K]"""
    targets: Tensor
    """[2 * B, K]: probabilities, centered (or assigned by Sinkhorn-Knopp) and sharpened."""


class Dino(Objective):
    """Student, teacher, center, and the loss between student and teacher.

    The student sees all crops, the teacher only the two global ones. The teacher has no gradient: by default it is the
    exponential moving average of the student. The recipe must be resolved.
    """

    center: Tensor
    student: Network

    def __init__(self, recipe: DinoRecipe) -> None:
        super().__init__()
        self.config = recipe.dino
        student, teacher = student_and_teacher(recipe)
        width = int(student.embed_dim)
        self.student = Network(student, DinoHead(width, self.config, self.config.predictor))
        self.teacher = Network(teacher, DinoHead(width, self.config))
        if (
            self.config.hidden_dim >= REFERENCE_WIDTH
            and not recipe.backbone.pretrained
            and student.cls_token is not None
        ):
            nn.init.trunc_normal_(student.cls_token, std=0.02)  # timm's 1e-6 lets small ViTs learn sooner
        copy_weights(self.teacher, self.student)
        self.register_buffer("center", torch.zeros(1, resolved(self.config.out_dim)))

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Temperature of the teacher's softmax, the same in all steps of an epoch, as in the reference; and momentum of
        its EMA, where 0 copies the student."""
        config = self.config
        temperature = epoch_schedule(
            step // steps_per_epoch,
            config.warmup_teacher_temp_epochs,
            resolved(config.warmup_teacher_temp),
            resolved(config.teacher_temp),
        )
        ends_epoch = (step + 1) % steps_per_epoch == 0
        momentum = {
            "momentum": cosine_schedule(step, steps, resolved(config.momentum_teacher), 1.0),
            "copy": 0.0,
            "previous_epoch": 0.0 if ends_epoch else 1.0,
        }[config.teacher]
        return {"momentum_teacher": momentum, "teacher_temp": temperature}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, TeacherOutput]:
        with torch.no_grad():
            tokens, logits = self.teacher(groups[:1])
            targets = self.targets(logits, scheduled["teacher_temp"])
        _, student_logits = self.student(groups)
        views = student_logits.chunk(count_crops(groups))
        loss = dino_loss(list(targets.chunk(2)), list(views), self.config.student_temp)
        return loss, TeacherOutput(tokens, logits, targets)

    def targets(self, logits: Tensor, temperature: float) -> Tensor:
        """Turn the teacher's logits [n, K] into probabilities; Sinkhorn-Knopp assigns both views together."""
        if self.config.centering == "sinkhorn":
            return sinkhorn(logits, temperature)
        return functional.softmax((logits - self.center) / temperature, dim=-1)

    @torch.no_grad()
    def update_center(self, logits: Tensor) -> None:
        """Equation 4: EMA of the mean of the teacher's logits [n, K] over the batch of all processes."""
        mean = mean_over_processes(logits.mean(dim=0, keepdim=True))
        self.center.lerp_(mean, 1 - self.config.center_momentum)

    @torch.no_grad()
    def health(self, loss: Tensor, outputs: TeacherOutput) -> dict[str, float]:
        """`entropies` of the teacher's targets; `center_norm`; `effective_rank` of its CLS tokens, 1 to C."""
        return {
            **entropies(loss, outputs.targets),
            "center_norm": self.center.norm().item(),
            "effective_rank": mean_over_processes(effective_rank(outputs.tokens)).item(),
        }

    def before_step(self, epochs: float) -> None:
        """Freeze the student's last layer for the first epochs by dropping its gradients."""
        if epochs < self.config.freeze_last_layer:
            head: Any = self.student.head
            for parameter in head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, outputs: TeacherOutput, scheduled: Mapping[str, float]) -> None:
        """Update teacher and center."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])
        if self.config.centering == "mean":
            self.update_center(outputs.logits)


def dino_loss(targets: list[Tensor], student_logits: list[Tensor], temperature: float) -> Tensor:
    """Cross-entropy between the teacher's output for each global crop and the student's for every other crop.

    `targets` are the probabilities [B, K] of the two global crops, `student_logits` the logits [B, K] of all crops, the
    two global ones first. Mean over the pairs of different crops and over the batch (equation 3).
    """
    log_probabilities = [functional.log_softmax(logits / temperature, dim=-1) for logits in student_logits]
    terms = [
        -(target * log_probability).sum(dim=-1).mean()
        for t, target in enumerate(targets)
        for s, log_probability in enumerate(log_probabilities)
        if s != t
    ]
    return torch.stack(terms).mean()
