"""DINOv2: DINO on CLS tokens, iBOT on masked patches, KoLeo (Oquab et al. 2023, section 4; iBOT: Zhou et al. 2022), and
what holds a run near published weights: an anchor, and DINOv3's Gram anchoring (Siméoni et al. 2025, section 4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dino_train.data.block_masks import draw_masks
from dino_train.machine.distributed import mean_over_processes
from dino_train.models.backbones import build_backbone, masked_patches, patch_size
from dino_train.objectives.collapse import effective_rank, entropies
from dino_train.objectives.dino import DinoHead, dino_loss
from dino_train.objectives.networks import copy_weights, count_crops, student_and_teacher, update_ema
from dino_train.objectives.objective import Objective
from dino_train.objectives.schedules import cosine_schedule, epoch_schedule
from dino_train.objectives.sinkhorn import sinkhorn
from dino_train.recipes import DinoConfig, Dinov2Config, Dinov2Recipe


class Tokens(NamedTuple):
    """A ViT's tokens of n crops after the final norm, float32."""

    cls: Tensor
    """[n, C]"""
    patches: Tensor
    """[n, N, C]: row by row, without registers."""


class Backbone(nn.Module):
    """A ViT that returns all of its tokens."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def tokens(self, crops: Tensor) -> Tokens:
        """Tokens of crops [n, 3, S, S]."""
        vit = cast(VisionTransformer, self.backbone)
        tokens = vit.forward_features(crops).float()
        return Tokens(tokens[:, 0], tokens[:, vit.num_prefix_tokens :])


class TwoHeads(Backbone):
    """A ViT with a head for its CLS tokens and another, untied, for its patch tokens: a student or a teacher."""

    def __init__(self, backbone: VisionTransformer, config: Dinov2Config) -> None:
        super().__init__(backbone)
        width = int(backbone.embed_dim)
        shape = DinoConfig(
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            norm_last_layer=False,  # as in the reference
        )
        self.cls_head = DinoHead(width, dataclasses.replace(shape, out_dim=config.out_dim))
        self.patch_head = DinoHead(width, dataclasses.replace(shape, out_dim=config.patch_out_dim))


class Student(TwoHeads):
    """The student also has a token that takes the place of masked patches; 0 at first, as in the reference."""

    def __init__(self, backbone: VisionTransformer, config: Dinov2Config) -> None:
        super().__init__(backbone, config)
        self.mask_token = nn.Parameter(torch.zeros(int(backbone.embed_dim)))

    def freeze_blocks(self, count: int) -> None:
        """Freeze the first blocks and all that comes before them, the mask token too."""
        vit: Any = self.backbone
        rest = ("blocks.", "norm.")
        before = [parameter for name, parameter in vit.named_parameters() if not name.startswith(rest)]
        for parameter in (self.mask_token, *before, *vit.blocks[:count].parameters()):
            parameter.requires_grad_(False)


class Outputs(NamedTuple):
    """What a step's health is known by, without gradient."""

    tokens: Tensor
    """[2 * B, C]: the teacher's CLS tokens."""
    targets: Tensor
    """[2 * B, K]: what it assigns them."""
    terms: Tensor
    """[1, 5]: the terms of the loss, in the order of TERMS, without their weights; 0 for those that are not used."""


TERMS = ("dino", "ibot", "koleo", "anchor", "gram")
"""The terms of the loss, by the names of their weights in the recipe."""


class Dinov2(Objective):
    """Student, teacher, and where the recipe says so an anchor: the teacher's backbone as it was at the start.

    The student sees all crops, with part of the patches of some global ones masked; the teacher and the anchor see the
    two global ones as they are. The teacher is the exponential moving average of the student. The masks are drawn from
    torch's global generator, which the loop seeds in every step.
    """

    student: Student
    compilable = False  # compiled code would not return the patch tokens

    def __init__(self, recipe: Dinov2Recipe) -> None:
        super().__init__()
        self.config = config = recipe.dinov2
        student, teacher = student_and_teacher(recipe)
        self.student = Student(student, config)
        self.teacher = TwoHeads(teacher, config)
        copy_weights(self.teacher, self.student)
        if config.freeze_blocks:
            self.student.freeze_blocks(config.freeze_blocks)
        if recipe.anchored:
            self.anchor = Backbone(build_backbone(recipe.backbone, recipe.crops.global_crops_size, download=False))
            self.start()

    def start(self) -> None:
        """Keep the weights that the run starts from as its anchor."""
        if hasattr(self, "anchor"):
            copy_weights(self.anchor, self.teacher)

    def schedule(self, step: int, steps: int, steps_per_epoch: int) -> dict[str, float]:
        """Temperature of the teacher's softmax, and momentum of its EMA, which rises to 1 along a cosine."""
        config = self.config
        temperature = epoch_schedule(
            step // steps_per_epoch, config.warmup_teacher_temp_epochs, config.warmup_teacher_temp, config.teacher_temp
        )
        momentum = cosine_schedule(step, steps, config.momentum_teacher, 1.0)
        return {"momentum_teacher": momentum, "teacher_temp": temperature}

    def forward(self, groups: list[Tensor], scheduled: Mapping[str, float]) -> tuple[Tensor, Outputs]:
        crops, temperature = groups[0], scheduled["teacher_temp"]
        masked = self.draw_masks(crops)
        hidden = masked.flatten(1)
        with masked_patches(self.student.backbone, masked, self.student.mask_token):
            seen = self.student.tokens(crops)
        local = [self.student.tokens(group).cls for group in groups[1:]]
        with torch.no_grad():
            whole = self.teacher.tokens(crops)
            start = self.anchor.tokens(crops) if hasattr(self, "anchor") else whole
        # The heads run in fp32: at these temperatures, the rounding of bf16's eight bits would be noise.
        with torch.autocast(crops.device.type, enabled=False):
            with torch.no_grad():
                targets = sinkhorn(self.teacher.cls_head(whole.cls), temperature)
                patch_targets = sinkhorn(self.teacher.patch_head(whole.patches[hidden]), temperature)
            views = self.student.cls_head(torch.cat([seen.cls, *local])).chunk(count_crops(groups))
            patch_logits = self.student.patch_head(seen.patches[hidden])
            terms = {
                "dino": dino_loss(list(targets.chunk(2)), list(views), self.config.student_temp),
                "ibot": ibot_loss(patch_targets, patch_logits, hidden, self.config.student_temp),
            }
            if self.config.koleo:
                terms["koleo"] = torch.stack([koleo_loss(view) for view in seen.cls.chunk(2)]).sum()
            if self.config.anchor:
                terms["anchor"] = anchor_loss(seen.cls, start.cls) + anchor_loss(seen.patches, start.patches)
            if self.config.gram:
                terms["gram"] = gram_loss(seen.patches, start.patches)
            loss = torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()
        nothing = loss.new_zeros(())
        logged = torch.stack([terms.get(name, nothing).detach() for name in TERMS])
        return loss, Outputs(whole.cls, targets, logged[None])

    def draw_masks(self, crops: Tensor) -> Tensor:
        """Masks of crops [n, 3, S, S]: bool [n, h, w] on their device."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        side = crops.shape[-1] // patch_size(cast(VisionTransformer, self.student.backbone))
        masks = draw_masks(rng, len(crops), (side, side), self.config.mask_probability, self.config.mask_ratio)
        return torch.from_numpy(masks).to(crops.device)

    @torch.no_grad()
    def health(self, loss: Tensor, outputs: Outputs) -> dict[str, float]:
        """`entropies` of the targets of CLS tokens; `effective_rank` of the teacher's CLS tokens, 1 to C; each term of
        the `loss` that is used, without its weight, as `dino_loss`."""
        terms = dict(zip(TERMS, mean_over_processes(outputs.terms.mean(dim=0)), strict=True))
        return {
            **entropies(terms["dino"], outputs.targets),
            "loss": mean_over_processes(loss.detach()).item(),
            "effective_rank": mean_over_processes(effective_rank(outputs.tokens)).item(),
            **{f"{name}_loss": term.item() for name, term in terms.items() if getattr(self.config, name)},
        }

    def before_step(self, epochs: float) -> None:
        """Freeze the heads' last layers, and the backbone, for the first epochs by dropping their gradients."""
        frozen: list[nn.Module] = []
        if epochs < self.config.freeze_last_layer:
            frozen += [self.student.cls_head.last_layer, self.student.patch_head.last_layer]
        if epochs < self.config.freeze_backbone:
            frozen += [self.student.backbone]
        for module in frozen:
            for parameter in module.parameters():
                parameter.grad = None

    def after_step(self, outputs: Outputs, scheduled: Mapping[str, float]) -> None:
        """Update the teacher."""
        update_ema(self.teacher, self.student, scheduled["momentum_teacher"])


def ibot_loss(targets: Tensor, logits: Tensor, masked: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the teacher's output for the masked patches, which it sees, and the student's.

    `targets` are probabilities and `logits` the student's, both [m, K], of the m patches of n crops that are `masked`,
    bool [n, N], row by row. Mean over each crop's masked patches, then over all crops; a crop without masked patches
    counts as 0, as in the reference (Zhou et al. 2022, section 3).
    """
    terms = -(targets * functional.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)
    per_crop = masked.sum(dim=1, keepdim=True).expand_as(masked)
    loss: Tensor = (terms / per_crop[masked]).sum() / len(masked)
    return loss


def koleo_loss(tokens: Tensor) -> Tensor:
    """KoLeo of tokens [n, C], two or more: minus the mean logarithm of the distance of each to its nearest neighbor.

    Tokens are L2-normalized; the gradient flows to both of a pair (Sablayrolles et al. 2019; Oquab et al. 2023,
    section 4). The neighbors are those of this process.
    """
    directions = functional.normalize(tokens, dim=-1)
    with torch.no_grad():
        similarities = directions @ directions.T
        nearest = similarities.fill_diagonal_(-torch.inf).argmax(dim=1)
    distances = (directions - directions[nearest]).norm(dim=-1)
    loss: Tensor = -distances.clamp(min=1e-8).log().mean()
    return loss


def anchor_loss(tokens: Tensor, start: Tensor) -> Tensor:
    """Mean cosine distance, 0 to 2, of tokens [..., C] from the same tokens by the weights at the start."""
    return 1 - functional.cosine_similarity(tokens, start, dim=-1).mean()


def gram_loss(patches: Tensor, start: Tensor) -> Tensor:
    """Mean squared difference between the cosines of all pairs of patches of a crop [n, N, C], and those at the start.

    The squared Frobenius norm of DINOv3's equation 2, divided by N * N and averaged over crops, as in its reference.
    """
    ours, theirs = (functional.normalize(x, dim=-1) for x in (patches, start))
    return functional.mse_loss(ours @ ours.mT, theirs @ theirs.mT)
