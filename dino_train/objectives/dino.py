"""DINO: self-distillation with no labels (Caron et al. 2021, section 3 and algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from dino_train.backbones import build_backbone
from dino_train.config import DinoConfig, Recipe, settled
from dino_train.distributed import mean_over_processes
from dino_train.objectives.objective import Objective
from dino_train.schedules import cosine_schedule, linear_schedule


class DinoHead(nn.Module):
    """Projection head: three layers with GELU, an L2-normalised bottleneck and a weight-normalised last layer.

    Takes [B, C] and returns logits [B, K]. Section 3.2 and appendix C of the paper.
    """

    def __init__(self, in_dim: int, config: DinoConfig) -> None:
        super().__init__()

        def hidden(width: int) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(config.hidden_dim)] if config.use_bn_in_head else []
            return [nn.Linear(width, config.hidden_dim), *norm, nn.GELU()]

        self.mlp = nn.Sequential(
            *hidden(in_dim), *hidden(config.hidden_dim), nn.Linear(config.hidden_dim, config.bottleneck_dim)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                # The reference's 0.02 is 1/sqrt(2048); narrower heads need more, or the biases drown the signal.
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
        last = nn.Linear(config.bottleneck_dim, settled(config.out_dim), bias=False)
        self.last_layer = parametrizations.weight_norm(last)
        norms: Any = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(norms)
        norms.requires_grad_(not config.norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.last_layer(functional.normalize(self.mlp(x), dim=-1))
        return logits


class Network(nn.Module):
    """A backbone and its head: what student and teacher are.

    Takes groups of crops of one size each, [n * B, 3, S, S]; each group goes through the backbone in one pass. Returns
    the CLS tokens [crops * B, C] and the head's logits [crops * B, K], float32.
    """

    def __init__(self, backbone: VisionTransformer, config: DinoConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = DinoHead(int(backbone.embed_dim), config)

    def forward(self, groups: list[Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        tokens = torch.cat([self.backbone(group) for group in groups]).float()
        # In fp32 whatever the backbone's precision: a temperature of 0.02 makes noise of bf16's eight bits.
        with torch.autocast(tokens.device.type, enabled=False):
            return tokens, self.head(tokens)


class TeacherOutput(NamedTuple):
    """What the teacher said of one batch, without gradient."""

    tokens: Tensor
    """[2 * B, C]: CLS tokens."""
    logits: Tensor
    """[2 * B, K]"""
    targets: Tensor
    """[2 * B, K]: centred and sharpened probabilities."""


class Dino(Objective):
    """Student, teacher and centre, and the loss between them.

    The student sees all crops, the teacher only the two global ones; the teacher has no gradient and follows the
    student as an exponential moving average. The recipe must be resolved.
    """

    centre: Tensor
    student: Network

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.config = recipe.dino
        self.largest_entropy = math.log(settled(self.config.out_dim))  # of a uniform output: ln K
        size = recipe.crops.global_size
        student = build_backbone(recipe.backbone, size, drop_path=recipe.backbone.drop_path)
        teacher = build_backbone(recipe.backbone, size, download=False)
        self.student = Network(student, self.config)
        self.teacher = Network(teacher, self.config)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, settled(self.config.out_dim)))

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Temperature of the teacher's softmax, and the EMA that moves the teacher."""
        config = self.config
        temperature = linear_schedule(
            step,
            config.teacher_temperature_epochs * steps_per_epoch,
            settled(config.teacher_temperature_start),
            settled(config.teacher_temperature),
        )
        momentum = cosine_schedule(step, steps, settled(config.teacher_momentum), 1.0)
        return {"teacher_momentum": momentum, "teacher_temperature": temperature}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, TeacherOutput]:
        """Scalar loss of one batch, and what the teacher said; see `Objective`. `after_step` moves the centre."""
        with torch.no_grad():
            tokens, logits = self.teacher(groups[:1])
            targets = functional.softmax((logits - self.centre) / scheduled["teacher_temperature"], dim=-1)
        _, student_logits = self.student(groups)
        crops = 2 * len(student_logits) // len(logits)
        loss = dino_loss(list(targets.chunk(2)), list(student_logits.chunk(crops)), self.config.student_temperature)
        return loss, TeacherOutput(tokens, logits, targets)

    @torch.no_grad()
    def update_centre(self, logits: Tensor) -> None:
        """Equation 4: EMA of the mean of the teacher's logits [n, K] over the batch of all processes."""
        mean = mean_over_processes(logits.mean(dim=0, keepdim=True))
        self.centre.lerp_(mean, 1 - self.config.centre_momentum)

    @torch.no_grad()
    def health(self, loss: Tensor, teacher: TeacherOutput) -> dict[str, float]:
        """What tells whether it learns, over all processes.

        `loss`, and the two that it is the sum of: `teacher_entropy` and `kl`, nats. `marginal_entropy`, nats: of the
        teacher's mean output; the more it is above `teacher_entropy`, the better the teacher tells pictures apart.
        `centre_norm`. `effective_rank`: of the teacher's CLS tokens, 1 to C: how many directions they fill (Roy and
        Vetterli 2007).
        """
        loss = mean_over_processes(loss.detach())
        entropy = mean_over_processes(torch.special.entr(teacher.targets).sum(dim=-1).mean())
        marginal = torch.special.entr(mean_over_processes(teacher.targets.mean(dim=0))).sum()
        rank = mean_over_processes(effective_rank(teacher.tokens.float()))
        return {
            "loss": loss.item(),
            "teacher_entropy": entropy.item(),
            "kl": (loss - entropy).item(),
            "marginal_entropy": marginal.item(),
            "centre_norm": self.centre.norm().item(),
            "effective_rank": rank.item(),
        }

    def before_step(self, epochs: float) -> None:
        """Forget the gradients of the student's last layer at the start, so that it stands still."""
        if epochs < self.config.freeze_last_layer_epochs:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, said: TeacherOutput, scheduled: Mapping[str, float]) -> None:
        """Move teacher and centre."""
        self.update_teacher(scheduled["teacher_momentum"])
        self.update_centre(said.logits)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: teacher = momentum * teacher + (1 - momentum) * student."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


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


def effective_rank(tokens: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of centred rows [n, C] (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals(tokens - tokens.mean(dim=0))
    rank: Tensor = torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp()
    return rank
