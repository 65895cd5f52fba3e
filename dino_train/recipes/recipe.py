"""What the recipes of all methods have: the backbone, the crops, the optimizer, and what a method's recipe answers.

Each method has a file beside this one with a section of settings and a recipe that holds it. Defaults are those of the
paper for ViT-S/16 on ImageNet, written for a batch of any size. Each field says when to change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from dino_ros.errors import UserError

Auto = Literal["auto"]
Number = TypeVar("Number", int, float)


@dataclass
class BackboneConfig:
    """The Vision Transformer that learns."""

    name: str = "vit_small_patch16_224"
    """timm model name; the fields below change its shape where they are set."""
    patch_size: int | None = None
    """Pixels on a patch's side. Smaller patches outline objects more finely and cost more."""
    embed_dim: int | None = None
    """Width of the tokens; a multiple of the number of heads."""
    depth: int | None = None
    """Number of blocks."""
    num_heads: int | None = None
    """Attention heads per block."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student, 0 to 1. Lower it for short runs and very small models."""
    pretrained: bool = False
    """Start from timm's published weights of `name` (downloads them) instead of random ones."""


@dataclass
class CropsConfig:
    """Multi-crop: few global crops for teacher and student, many local ones for the student alone."""

    global_crops_size: int = 224
    """Side of the two global crops, in pixels; a multiple of the patch size."""
    local_crops_size: int = 96
    """Side of the local crops, in pixels; a multiple of the patch size."""
    local_crops_number: int = 8
    """Local crops per image; 0 trains on the two global crops alone."""
    global_crops_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area that a global crop covers. (0.25, 1) for long runs with 10 local crops."""
    local_crops_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the image's area that a local crop covers."""
    color: float = 1.0
    """Strength of color jitter, grayscale and solarization: 1 as the paper. Lower it where frames look alike and
    color is what tells them apart, as in the log of one robot in one place."""

    def __post_init__(self) -> None:
        for name in ("global_crops_scale", "local_crops_scale"):
            low, high = getattr(self, name)  # YAML and JSON know lists alone
            setattr(self, name, (low, high))


@dataclass
class OptimizerConfig:
    """The optimizer and its schedules."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW for ViTs; SGD or LARS (both with momentum 0.9) for comparisons with convolutional recipes."""
    lr: float = 5e-4
    """Peak learning rate for a batch of 256; scaled linearly with the batch."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up of the learning rate."""
    weight_decay: float = 0.04
    """Weight decay at the start (biases and norms have none)."""
    weight_decay_end: float = 0.4
    """Weight decay at the end of its cosine."""
    clip_grad: float = 3.0
    """Largest norm of one parameter's gradient, 0 for none (per parameter, as the reference does)."""


@dataclass
class Recipe:
    """Everything that decides what is learnt, apart from the data; the recipe of each method adds a section to it."""

    method: ClassVar[str]
    """The name of that section."""
    exported: ClassVar[Literal["teacher", "student"]]
    """Which of its networks is exported and evaluated."""
    when_uniform: ClassVar[str] = ""
    """What to do where the loss stays at that of chance, for a method with such a loss."""
    when_collapsed: ClassVar[str] = "lower optimizer.lr or optimizer.weight_decay_end"
    """What to do where all images look alike to it."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: float = 100
    """Passes over the data; parts of one count too."""
    batch_size: int = 64
    """Images per step, over all processes together."""
    seed: int = 0
    """Seed of everything that is random."""

    @property
    def chance_loss(self) -> float | None:
        """The loss of a run that says nothing, such as ln K nats of a cross-entropy; None where there is no such."""
        return None

    def resolve(self, images: int) -> tuple[Recipe, dict[str, float]]:
        """Replace every "auto" by its value for a number of images; also returns what was replaced, by name."""
        return self, {}

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        if self.epochs <= 0:
            raise UserError(f"epochs is {self.epochs}: it must be above 0.")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: it must be at least 1.")
        for name in ("global_crops_scale", "local_crops_scale"):
            low, high = getattr(self.crops, name)
            if not 0 < low <= high <= 1:
                raise UserError(
                    f"crops.{name} is ({low}, {high}): it must be two shares of the area, 0 < low <= high <= 1."
                )

    def check_above_zero(self, *names: str) -> None:
        """Raise UserError where one of these settings of the method's section is not above 0."""
        for name in names:
            value = getattr(getattr(self, self.method), name)
            if value != "auto" and value <= 0:
                raise UserError(f"{self.method}.{name} is {value}: it must be above 0.")


@dataclass
class PretrainRecipe(Recipe):
    """What the recipes of all self-supervised methods have."""

    init: str | None = None
    """File to start from: an official DINO v1 backbone, an official training checkpoint (with head and center), or a
    checkpoint of `dino-train`; of another method's, the backbone is taken."""


def settled(value: Number | Auto) -> Number:
    """A setting that may have been "auto", after `Recipe.resolve`."""
    if value == "auto":
        raise ValueError("the recipe was not resolved")
    return value
