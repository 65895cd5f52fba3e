"""Recipes of DINOv2, and of going on from published weights (Oquab et al. 2023; Siméoni et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dino_ros.errors import UserError
from dino_train.recipes.recipe import PretrainRecipe


@dataclass
class Dinov2Config:
    """DINOv2: DINO on CLS tokens, iBOT on masked patches, KoLeo; what anchors a run to the weights it starts from."""

    out_dim: int = 65536
    """K, the output dimensions of the CLS tokens' head. At most some times the batch size, as 128 at 16 images:
    Sinkhorn-Knopp spreads the crops of a batch evenly over all of them, and more make its targets uniform."""
    patch_out_dim: int = 65536
    """Output dimensions of the patch tokens' head. Lower it with the number of masked patches in a batch."""
    hidden_dim: int = 2048
    """Width of the hidden layers of both heads. Lower it, as to 512, with a small ViT."""
    bottleneck_dim: int = 256
    """Width of the L2-normalized bottleneck before the last layer. Lower it with `out_dim`, as to 64 at 1024."""
    dino: float = 1.0
    """Weight of DINO's loss on the CLS tokens. Seldom changed."""
    ibot: float = 1.0
    """Weight of iBOT's loss on the masked patches. Raise it if you use the features of patches."""
    koleo: float = 0.1
    """Weight of KoLeo, which spreads the CLS tokens of a batch. Raise it if the run warns of collapse; 0 for
    frames that are meant to look alike."""
    anchor: float = 0.0
    """Weight of the cosine distance of the tokens from those of the weights that the run starts from. Raise it, as
    to 1, where a run forgets; for runs from `init` or published weights."""
    gram: float = 0.0
    """Weight of Gram anchoring (DINOv3): the similarities between the patches of an image stay those of the weights
    that the run starts from, while the features may turn. DINOv3 has 2."""
    mask_probability: float = 0.5
    """Share of the global crops that are masked for the student. Seldom changed."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Smallest and largest share of a masked crop's patches that are hidden. Seldom changed."""
    student_temp: float = 0.1
    """Temperature of the student's softmax. Seldom changed: the teacher's temperatures must stay below it."""
    warmup_teacher_temp: float = 0.04
    """Temperature of the teacher's softmax at the start. Lower it if the loss stays at that of chance."""
    teacher_temp: float = 0.07
    """Temperature of the teacher's softmax after its warm-up. Lower it likewise."""
    warmup_teacher_temp_epochs: float = 30
    """Epochs of the warm-up of the teacher's temperature. At most a third of `epochs`, for short runs too."""
    momentum_teacher: float = 0.992
    """EMA momentum of the teacher at the start; rises to 1 along a cosine. Raise it for small batches."""
    freeze_last_layer: float = 1
    """Epochs at the start in which the heads' last layers are frozen. Raise it if the loss does not fall."""
    freeze_backbone: float = 0
    """Epochs at the start in which the heads learn alone. A tenth of `epochs` for runs from published weights, which
    come without heads: what new ones ask for would spoil the features."""
    freeze_blocks: int = 0
    """Blocks, from the first one on, that stay as they start, with what comes before them. Half of them for short runs
    from published weights: steps are faster, and less is forgotten."""

    def __post_init__(self) -> None:
        low, high = self.mask_ratio  # YAML and JSON only have lists
        self.mask_ratio = (low, high)


@dataclass
class Dinov2Recipe(PretrainRecipe):
    """A recipe of DINOv2."""

    method: ClassVar[str] = "dinov2"
    exported: ClassVar[Literal["teacher", "student"]] = "teacher"
    when_uniform: ClassVar[str] = (
        "lower --dinov2.out_dim and --dinov2.patch_out_dim, or --dinov2.warmup_teacher_temp and --dinov2.teacher_temp"
    )
    when_collapsed: ClassVar[str] = "raise --dinov2.koleo or --batch_size, or lower --optimizer.lr"

    dinov2: Dinov2Config = field(default_factory=Dinov2Config)

    @property
    def chance_loss(self) -> float | None:
        """Of uniform outputs of both heads, nats; crops without a mask count as 0, as in the loss.

        None for a run with an anchor, whose part of the loss is not known beforehand.
        """
        if self.anchored:
            return None
        patches = self.dinov2.mask_probability * math.log(self.dinov2.patch_out_dim)
        return self.dinov2.dino * self.largest_entropy + self.dinov2.ibot * patches

    @property
    def largest_entropy(self) -> float:
        """ln K of the CLS tokens' head, nats."""
        return math.log(self.dinov2.out_dim)

    @property
    def smallest_batch(self) -> int:
        """KoLeo needs a neighbor."""
        return 2 if self.dinov2.koleo else 1

    @property
    def anchored(self) -> bool:
        """Whether the run keeps the weights it starts from, to stay near them."""
        return bool(self.dinov2.anchor or self.dinov2.gram)

    def check(self) -> None:
        """Raise UserError, naming the setting, if a value is out of range, or an anchor has nothing to hold to."""
        super().check()
        low, high = self.dinov2.mask_ratio
        if low > high:
            raise UserError(
                f"dinov2.mask_ratio is ({low}, {high}): the smaller share comes first: give --dinov2.mask_ratio "
                f"'[{high}, {low}]'."
            )
        if self.anchored and not self.init and not self.backbone.pretrained:
            raise UserError(
                "dinov2.anchor and dinov2.gram hold to the weights that a run starts from, but these are random: give "
                "--init, or set both to 0."
            )
