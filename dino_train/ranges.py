"""The range of every setting that is a number, in one table: a test holds all settings to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dino_ros.errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, each included unless it is excluded."""

    low: float
    high: float = math.inf
    low_excluded: bool = False
    high_excluded: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.low if self.low_excluded else value >= self.low
        return above and (value < self.high if self.high_excluded else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_excluded else f"at least {self.low:g}"
        if self.high == math.inf:
            return f"{low} and finite"
        return f"{low} and {'below' if self.high_excluded else 'at most'} {self.high:g}"


ABOVE_ZERO = Range(0, low_excluded=True)
NOT_NEGATIVE = Range(0)
AT_LEAST_ONE = Range(1)
SHARE = Range(0, 1)

RANGES: Mapping[str, Range] = {
    "epochs": Range(0, 1e6, low_excluded=True),
    "batch_size": AT_LEAST_ONE,
    "seed": Range(0, 2**63 - 1),  # what torch takes
    "near_duplicate_threshold": Range(0, 255),  # gray levels
    "backbone.patch_size": AT_LEAST_ONE,
    "backbone.embed_dim": AT_LEAST_ONE,
    "backbone.depth": AT_LEAST_ONE,
    "backbone.num_heads": AT_LEAST_ONE,
    "backbone.image_size": AT_LEAST_ONE,
    "backbone.drop_path_rate": Range(0, 1, high_excluded=True),  # at 1 nothing is left
    "crops.global_crops_size": AT_LEAST_ONE,
    "crops.local_crops_size": AT_LEAST_ONE,
    "crops.local_crops_number": NOT_NEGATIVE,
    "crops.global_crops_scale": Range(0, 1, low_excluded=True),
    "crops.local_crops_scale": Range(0, 1, low_excluded=True),
    "crops.color": NOT_NEGATIVE,
    "crops.seconds_apart": NOT_NEGATIVE,
    "optimizer.lr": NOT_NEGATIVE,
    "optimizer.backbone_lr": SHARE,
    "optimizer.min_lr": NOT_NEGATIVE,
    "optimizer.warmup_epochs": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.weight_decay_end": NOT_NEGATIVE,
    "optimizer.clip_grad": NOT_NEGATIVE,
    "dino.out_dim": Range(2),  # a softmax over one is constant
    "dino.hidden_dim": AT_LEAST_ONE,
    "dino.bottleneck_dim": AT_LEAST_ONE,
    "dino.freeze_last_layer": NOT_NEGATIVE,
    "dino.student_temp": ABOVE_ZERO,
    "dino.warmup_teacher_temp": ABOVE_ZERO,
    "dino.teacher_temp": ABOVE_ZERO,
    "dino.warmup_teacher_temp_epochs": NOT_NEGATIVE,
    "dino.center_momentum": SHARE,
    "dino.momentum_teacher": SHARE,
    "byol.hidden_dim": AT_LEAST_ONE,
    "byol.out_dim": AT_LEAST_ONE,
    "byol.momentum": SHARE,
    "moco.queue": AT_LEAST_ONE,
    "moco.temperature": ABOVE_ZERO,
    "moco.hidden_dim": AT_LEAST_ONE,
    "moco.out_dim": AT_LEAST_ONE,
    "moco.momentum": SHARE,
    "swav.prototypes": Range(2),
    "swav.hidden_dim": AT_LEAST_ONE,
    "swav.out_dim": AT_LEAST_ONE,
    "swav.temperature": ABOVE_ZERO,
    "swav.epsilon": ABOVE_ZERO,
    "swav.iterations": AT_LEAST_ONE,
    "swav.queue": NOT_NEGATIVE,
    "swav.queue_from_epochs": NOT_NEGATIVE,
    "swav.freeze_prototypes_epochs": NOT_NEGATIVE,
    "dinov2.out_dim": Range(2),
    "dinov2.patch_out_dim": Range(2),
    "dinov2.hidden_dim": AT_LEAST_ONE,
    "dinov2.bottleneck_dim": AT_LEAST_ONE,
    "dinov2.dino": NOT_NEGATIVE,
    "dinov2.ibot": NOT_NEGATIVE,
    "dinov2.koleo": NOT_NEGATIVE,
    "dinov2.anchor": NOT_NEGATIVE,
    "dinov2.gram": NOT_NEGATIVE,
    "dinov2.mask_probability": SHARE,
    "dinov2.mask_ratio": SHARE,
    "dinov2.student_temp": ABOVE_ZERO,
    "dinov2.warmup_teacher_temp": ABOVE_ZERO,
    "dinov2.teacher_temp": ABOVE_ZERO,
    "dinov2.warmup_teacher_temp_epochs": NOT_NEGATIVE,
    "dinov2.momentum_teacher": SHARE,
    "dinov2.freeze_last_layer": NOT_NEGATIVE,
    "dinov2.freeze_backbone": NOT_NEGATIVE,
    "dinov2.freeze_blocks": NOT_NEGATIVE,
    "curl.frames": AT_LEAST_ONE,
    "curl.out_dim": Range(2),  # layer norm of one is constant
    "curl.momentum": SHARE,
    "distill.patches": NOT_NEGATIVE,
    "distill.cls": NOT_NEGATIVE,
    "distill.attention": NOT_NEGATIVE,
    "machine.accumulate": AT_LEAST_ONE,
    "machine.threads": AT_LEAST_ONE,
    "machine.workers": NOT_NEGATIVE,
    "evaluation.every": NOT_NEGATIVE,
    "slurm.nodes": AT_LEAST_ONE,
    "slurm.gpus": AT_LEAST_ONE,
    "slurm.cpus_per_gpu": AT_LEAST_ONE,
    "slurm.hours": ABOVE_ZERO,
    "slurm.requeues": NOT_NEGATIVE,
}
"""By the setting's name, as on the command line. Both numbers of a pair are in it."""


def check_ranges(settings: Any, section: str = "") -> None:
    """Raise UserError, naming the first setting that is out of its range, for a dataclass and those inside it.

    `section` is what the dataclass is called on the command line. None and "auto" stand for a value chosen later.
    """
    for field in dataclasses.fields(settings):
        name, value = f"{section}.{field.name}".removeprefix("."), getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, name)
        elif name in RANGES:
            check_range(name, value, RANGES[name])


def check_range(name: str, value: Any, allowed: Range) -> None:
    """Raise UserError if a setting, a number or several, is out of range; see `check_ranges`."""
    if value is None or value == "auto":
        return
    if not all(number in allowed for number in (value if isinstance(value, tuple | list) else [value])):
        raise UserError(f"{name} is {value}: it must be {allowed}.")
