"""DINO: self-distillation with no labels (Caron et al. 2021, section 3 and algorithm 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from dino_train.backbones import build_backbone
from dino_train.config import DinoConfig, Recipe


class DinoHead(nn.Module):
    """Projection head: three layers with GELU, an L2-normalised bottleneck and a weight-normalised last layer.

    Takes [B, C] and returns logits [B, K]. Section 3.2 and appendix C of the paper; no batch norm.
    """

    def __init__(self, in_dim: int, config: DinoConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                # The reference's 0.02 is 1/sqrt(2048); narrower heads need more, or the biases drown the signal.
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
        self.last_layer = parametrizations.weight_norm(nn.Linear(config.bottleneck_dim, config.out_dim, bias=False))
        norms: Any = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(norms)
        norms.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.last_layer(functional.normalize(self.mlp(x), dim=-1))
        return logits


class Dino(nn.Module):
    """Student, teacher and centre, and the loss between them.

    The student sees all crops, the teacher only the two global ones; the teacher has no gradient and follows the
    student as an exponential moving average.
    """

    centre: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.config = recipe.dino
        size = recipe.crops.global_size
        student = build_backbone(recipe.backbone, size, drop_path=recipe.backbone.drop_path)
        teacher = build_backbone(recipe.backbone, size, download=False)
        width = int(student.embed_dim)
        self.student = nn.ModuleDict({"backbone": student, "head": DinoHead(width, self.config)})
        self.teacher = nn.ModuleDict({"backbone": teacher, "head": DinoHead(width, self.config)})
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, self.config.out_dim))

    def forward(self, crops: list[Tensor], teacher_temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, and what shows its health.

        `crops` are normalised float32: two of [B, 3, G, G], then any number of [B, 3, L, L]. Returns the scalar loss
        and, in nats and without gradient: `teacher_entropy` and `kl`, whose sum is the loss, and `marginal_entropy`,
        that of the teacher's mean output (the more it is above `teacher_entropy`, the better the teacher tells pictures
        apart). Moves the centre.
        """
        with torch.no_grad():
            teacher = self._project(self.teacher, crops[:2])
        student = self._project(self.student, crops)
        targets = [
            functional.softmax((logits.float() - self.centre) / teacher_temperature, dim=-1)
            for logits in teacher.chunk(2)
        ]
        loss = dino_loss(targets, list(student.chunk(len(crops))), self.config.student_temperature)
        with torch.no_grad():
            outputs = torch.cat(targets)
            entropy = torch.special.entr(outputs).sum(dim=-1).mean()
            marginal = torch.special.entr(outputs.mean(dim=0)).sum()
            self._update_centre(teacher)
        return loss, {"teacher_entropy": entropy, "kl": loss.detach() - entropy, "marginal_entropy": marginal}

    def _project(self, network: nn.ModuleDict, crops: list[Tensor]) -> Tensor:
        """Logits [crops * B, K], float32; crops of one size go through the backbone together."""
        groups = [crops[:2]] + ([crops[2:]] if len(crops) > 2 else [])
        tokens = torch.cat([network["backbone"](torch.cat(group)) for group in groups])
        logits: Tensor = network["head"](tokens)
        return logits.float()

    def _update_centre(self, teacher_logits: Tensor) -> None:
        """Equation 4: EMA of the mean of the teacher's logits over the batch."""
        self.centre.lerp_(teacher_logits.mean(dim=0, keepdim=True), 1 - self.config.centre_momentum)

    def freeze_last_layer(self) -> None:
        """Forget the gradients of the student's last layer, so that this step leaves it as it is."""
        head: Any = self.student["head"]
        for parameter in head.last_layer.parameters():
            parameter.grad = None

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: teacher = momentum * teacher + (1 - momentum) * student."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)

    @property
    def collapse_loss(self) -> float:
        """ln K: the loss of a teacher whose output is uniform, where a run that does not learn stays."""
        return math.log(self.config.out_dim)


def dino_loss(targets: list[Tensor], student_logits: list[Tensor], temperature: float) -> Tensor:
    """Cross-entropy between the teacher's view of one global crop and the student's of every other crop.

    `targets` are the two probability tensors [B, K], `student_logits` the logits [B, K] of all crops, the two global
    ones first. Mean over the pairs of different crops and over the batch (equation 3).
    """
    log_probabilities = [functional.log_softmax(logits / temperature, dim=-1) for logits in student_logits]
    terms = [
        -(target * log_probability).sum(dim=-1).mean()
        for t, target in enumerate(targets)
        for s, log_probability in enumerate(log_probabilities)
        if s != t
    ]
    return torch.stack(terms).mean()
