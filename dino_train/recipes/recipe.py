"""What the recipes of all methods share: backbone, crops, optimizer, and what each method's recipe must define.

Each method has a file of its own in this folder, with a section of settings and a recipe that contains it. Defaults are
those of DINO's paper for ViT-S/16 on ImageNet, for a batch of any size. Each field says when to change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from dino_ros.errors import UserError
from dino_train.ranges import check_ranges

Auto = Literal["auto"]
Number = TypeVar("Number", int, float)


@dataclass
class BackboneConfig:
    """The Vision Transformer that is trained."""

    name: str = "vit_small_patch16_224"
    """timm model name, which decides the kind of block; the fields below override its shape. A larger ViT learns
    more from more images; a smaller one runs faster on the robot."""
    patch_size: int | None = None
    """Side of a patch, in pixels (default: that of `name`). Smaller patches outline objects more finely; half the side
    makes four times the tokens."""
    embed_dim: int | None = None
    """Dimensions of the tokens, a multiple of `num_heads` (default: that of `name`). Lower it for a faster student."""
    depth: int | None = None
    """Number of blocks (default: that of `name`). Time grows with it; lower it for a faster student."""
    num_heads: int | None = None
    """Attention heads per block (default: that of `name`). Several narrow heads outline objects better than few wide
    ones."""
    image_size: int | None = None
    """Side of the square images that the position embedding is stored for, in pixels (default: that of the global
    crops). That of the weights a run starts from, such as 518 for DINOv2, keeps their embedding as it is."""
    drop_path_rate: float = 0.1
    """Stochastic depth rate of the student, 0 to 1. Lower it for short runs and very small models."""
    pretrained: bool = False
    """Start from timm's published weights of `name` (downloaded) instead of random ones."""


@dataclass
class CropsConfig:
    """Multi-crop: two global crops for teacher and student, many local crops for the student alone."""

    global_crops_size: int = 224
    """Side of the global crops, in pixels; a multiple of the patch size. Lower it first where training is too slow or
    does not fit into memory."""
    local_crops_size: int = 96
    """Side of the local crops, in pixels; a multiple of the patch size. Change it with `global_crops_size`, of which it
    is about half."""
    local_crops_number: int = 8
    """Local crops per image; 0 trains on the global crops alone. Lower it for faster epochs, which then teach less."""
    global_crops_scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest share of the image's area in a global crop. Raise the smallest, as to (0.6, 1), where frames
    look alike and the loss does not fall; (0.25, 1) is for long runs with 10 local crops."""
    local_crops_scale: tuple[float, float] = (0.05, 0.4)
    """Smallest and largest share of the image's area in a local crop. Raise both, as to (0.25, 0.6), where frames look
    alike and the loss does not fall."""
    color: float = 1.0
    """Strength of color jitter, grayscale and solarization; 1 is the paper's. Lower it where frames differ mainly in
    color, as in the log of one robot in one place."""
    seconds_apart: float = 0.0
    """Bags and videos: cut the second global crop from another frame of the same shot, at most this many seconds from
    the first one's, near-duplicates among them; 0 cuts both from one frame. Try 0.5 where the camera or what it sees
    moves fast; on rendered tables, masks were better with 0."""

    def __post_init__(self) -> None:
        for name in ("global_crops_scale", "local_crops_scale"):
            low, high = getattr(self, name)  # YAML and JSON only have lists
            setattr(self, name, (low, high))


@dataclass
class OptimizerConfig:
    """The optimizer and its schedules."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW for ViTs; SGD or LARS (both with momentum 0.9) to compare with recipes for convolutional networks."""
    lr: float = 5e-4
    """Peak learning rate for a batch of 256; scaled linearly with the batch size. Lower it by a factor of 2 to 4 if the
    loss jumps, is not finite, or the run warns of collapse."""
    backbone_lr: float = 1.0
    """Share of the learning rate that the backbone gets, while the heads get all of it. Lower it, as to 0.05, where a
    run starts from weights that it should not forget: its heads are new, and have more to learn."""
    min_lr: float = 1e-6
    """Learning rate at the end of its cosine schedule. Seldom changed."""
    warmup_epochs: float = 10
    """Epochs of the linear warm-up of the learning rate. A tenth of `epochs` for short runs; raise it if the loss jumps
    at the start."""
    weight_decay: float = 0.04
    """Weight decay at the start; biases and norms have none. Seldom changed."""
    weight_decay_end: float = 0.4
    """Weight decay at the end of its cosine schedule. Lower it if the run warns of collapse near its end."""
    clip_grad: float = 3.0
    """Largest norm of each parameter's gradient, as in the reference; 0 for no clipping. Lower it, as to 0.3, if the
    loss jumps or is not finite."""


@dataclass
class Recipe:
    """Everything that decides what a run learns, apart from the data; each method's recipe adds a section."""

    method: ClassVar[str]
    """Name of the method and of its section."""
    exported: ClassVar[Literal["teacher", "student"]]
    """The network that is exported and evaluated."""
    when_uniform: ClassVar[str] = ""
    """Advice for a loss that stays at `chance_loss`."""
    when_collapsed: ClassVar[str] = "lower --optimizer.lr or --optimizer.weight_decay_end"
    """Advice for embeddings that are the same for all images."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: float = 100
    """Passes over the data; may be fractional. More for fewer images: a run that warns of too few steps says how
    many."""
    batch_size: int = 64
    """Images per step, over all processes together. Lower it where memory ends; methods that compare images with one
    another learn better with more."""
    seed: int = 0
    """Seed of all random numbers. Change it to see how much of a difference between runs is chance."""

    @property
    def chance_loss(self) -> float | None:
        """Loss of uniform outputs, such as ln K nats for a cross-entropy over K; None if the loss has no such value."""
        return None

    @property
    def largest_entropy(self) -> float | None:
        """Entropy of a uniform output, nats; that of `chance_loss` where the loss is one cross-entropy."""
        return self.chance_loss

    @property
    def smallest_batch(self) -> int:
        """Images, over all processes, that the method needs in each part of a batch: two if batch norm takes one view
        at a time or the other images are the negatives."""
        return 1

    @property
    def stack(self) -> int:
        """Successive frames in a crop, each with the same box and colors; `Objective.forward` gets them frame by
        frame."""
        return 1

    def resolve(self, images: int) -> tuple[Recipe, dict[str, float]]:
        """Replace every "auto" by its value for a number of images; also returns the replaced values by name."""
        return self, {}

    def check(self) -> None:
        """Raise UserError, naming the setting, if a value is out of range."""
        check_ranges(self)
        for name in ("global_crops_scale", "local_crops_scale"):
            low, high = getattr(self.crops, name)
            if low > high:
                raise UserError(
                    f"crops.{name} is ({low}, {high}): the smaller share of the area comes first: give "
                    f"--crops.{name} '[{high}, {low}]'."
                )


@dataclass
class PretrainRecipe(Recipe):
    """What the recipes of all self-supervised methods share."""

    init: str | None = None
    """Weights to start from, which needs fewer images and epochs than from nothing: an official DINO v1 training
    checkpoint (with head and center), a checkpoint of `dino-train` (of which another method takes the backbone alone),
    a file or Hugging Face folder of another encoder, or the timm name of one (downloaded)."""


def resolved(value: Number | Auto) -> Number:
    """Value of a setting that `Recipe.resolve` replaces where it is "auto"."""
    if value == "auto":
        raise ValueError("the recipe was not resolved")
    return value
