"""Recipes of DINO and of the variants in its paper's ablations (Caron et al. 2021, section 5)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_train.recipes.recipe import Auto, PretrainRecipe, resolved

SMALL, LARGE = 20_000, 1_280_000
"""Numbers of images between which "auto" settings change from those for small data to the paper's for ImageNet."""


@dataclass
class DinoConfig:
    """DINO: head, temperatures, centering and teacher. Names are those of the reference's main_dino.py."""

    out_dim: int | Auto = 65536
    """K, the output dimensions of the head. Lower it for small data: "auto" rises from 1024 at 20,000 images to 65536
    at ImageNet's 1.28 million."""
    hidden_dim: int = 2048
    """Width of the head's two hidden layers. Lower it, as to 512, with a small ViT. From the reference's 2048 on, head
    and CLS token are initialized as the reference's, with a standard deviation of 0.02; narrower heads with
    1/sqrt(inputs), beside a CLS token of 1e-6."""
    bottleneck_dim: int = 256
    """Width of the L2-normalized bottleneck before the last layer. Lower it with `out_dim`, as to 64 at 1024."""
    use_bn_in_head: bool = False
    """Use batch norm in the head's hidden layers. ViTs do without; for convolutional or very unstable students."""
    norm_last_layer: bool = True
    """Keep the last layer's weights at unit norm. False trains a little better, but less stably for large models."""
    freeze_last_layer: float = 1
    """Epochs at the start in which the last layer is frozen. Raise it if the loss does not fall."""
    student_temp: float = 0.1
    """Temperature of the student's softmax. Seldom changed: the teacher's temperatures must stay below it."""
    warmup_teacher_temp: float | Auto = 0.04
    """Temperature of the teacher's softmax at the start. Lower it if the loss stays at ln K; "auto" rises from 0.015 at
    20,000 images to 0.04 at 1.28 million."""
    teacher_temp: float | Auto = 0.07
    """Temperature of the teacher's softmax after its warm-up; "auto" rises from 0.025 to 0.07 likewise."""
    warmup_teacher_temp_epochs: float = 30
    """Epochs of the warm-up of the teacher's temperature, which rises from epoch to epoch: in the last of them it is
    `teacher_temp`. At most a third of `epochs`, for short runs too."""
    center_momentum: float = 0.9
    """EMA momentum of the center, the mean of the teacher's outputs. Lower it if the run warns of collapse."""
    momentum_teacher: float | Auto = 0.996
    """EMA momentum of the teacher at the start; rises to 1 along a cosine. Lower it for short runs, raise it (0.9995)
    for long ones with small batches; "auto" rises from 0.99 at 20,000 images to 0.996 at 1.28 million."""
    teacher: Literal["momentum", "copy", "previous_epoch"] = "momentum"
    """The teacher's weights: an EMA of the student's, a copy of them, or those the student had at the end of the
    previous epoch. The latter two are for comparison: the paper's ablations."""
    centering: Literal["mean", "sinkhorn", "none"] = "mean"
    """What keeps the teacher from collapsing to one output: subtracting the center, a running mean; Sinkhorn-Knopp
    normalization of the batch; or nothing, which collapses: for comparison."""
    predictor: bool = False
    """Add a predictor to the student, as in BYOL: two more layers in its head, before the bottleneck is normalized. For
    comparison: in the paper it changed little."""


@dataclass
class DinoRecipe(PretrainRecipe):
    """A recipe of DINO."""

    method: ClassVar[str] = "dino"
    exported: ClassVar[Literal["teacher", "student"]] = "teacher"
    when_uniform: ClassVar[str] = (
        "lower --dino.warmup_teacher_temp and --dino.teacher_temp, or make crops of an image more similar "
        "(raise the lower end of --crops.global_crops_scale, lower --crops.color); lower --dino.out_dim for small data"
    )
    when_collapsed: ClassVar[str] = (
        "raise --dino.warmup_teacher_temp, or lower --dino.center_momentum or --optimizer.lr"
    )

    dino: DinoConfig = field(default_factory=DinoConfig)

    @property
    def chance_loss(self) -> float:
        """ln K, nats."""
        return math.log(resolved(self.dino.out_dim))

    def resolve(self, images: int) -> tuple[DinoRecipe, dict[str, float]]:
        """Replace every "auto" by its value for a number of images; also returns the replaced values by name.

        Between SMALL and LARGE images, K (a power of 2), 1 - momentum and the temperatures are interpolated
        geometrically over the logarithm of the number of images. The upper end is the paper's settings for ImageNet,
        the lower end what was found to work on robot logs of a few thousand frames.
        """
        share = min(max(math.log(max(images, 1) / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)

        def between(small: float, large: float) -> float:
            return float(f"{small * (large / small) ** share:.4g}")

        values: dict[str, float] = {
            "out_dim": 2 ** round(math.log2(between(1024, 65536))),
            "momentum_teacher": round(1 - between(0.01, 0.004), 6),
            "warmup_teacher_temp": between(0.015, 0.04),
            "teacher_temp": between(0.025, 0.07),
        }
        replaced = {name: value for name, value in values.items() if getattr(self.dino, name) == "auto"}
        dino = dataclasses.replace(self.dino, **replaced)  # type: ignore[arg-type]
        return dataclasses.replace(self, dino=dino), {f"dino.{name}": value for name, value in replaced.items()}
