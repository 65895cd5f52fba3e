"""The recipe: typed dataclasses that a YAML file or command-line options fill.

Defaults are those of the paper for ViT-S/16 on ImageNet (Caron et al. 2021, section 3.2 and appendix), written for a
batch of any size. Each field says when to change it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError

SHIPPED = ("config/pretrain", "share/dino_ros/config/pretrain")
"""Where recipes stand below the source tree, or below an installation's prefix."""


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
    drop_path: float = 0.1
    """Stochastic depth of the student, 0 to 1. Lower it for short runs and very small models."""
    pretrained: bool = False
    """Start from timm's published weights of `name` (downloads them) instead of random ones."""


@dataclass
class CropsConfig:
    """Multi-crop: few global crops for teacher and student, many local ones for the student alone."""

    global_size: int = 224
    """Side of the two global crops, in pixels; a multiple of the patch size."""
    local_size: int = 96
    """Side of the local crops, in pixels; a multiple of the patch size."""
    local_crops: int = 8
    """Local crops per image; 0 trains on the two global crops alone."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the picture's area that a global crop covers. (0.25, 1) for long runs with 10 local crops."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the picture's area that a local crop covers."""
    colour: float = 1.0
    """Strength of colour jitter, greyscale and solarisation: 1 as the paper. Lower it where frames look alike and
    colour is what tells them apart, as in the log of one robot in one place."""


@dataclass
class DinoConfig:
    """Self-distillation: head, temperatures, centre and EMA teacher."""

    out_dim: int = 65536
    """K, the dimensions of the head's output. Lower it for small data: about 1024 for 20,000 pictures."""
    hidden_dim: int = 2048
    """Width of the head's two hidden layers."""
    bottleneck_dim: int = 256
    """Width of the normalised layer before the last one."""
    norm_last_layer: bool = True
    """Keep the last layer's weights at unit norm. False trains a little better for large models, less stably."""
    freeze_last_layer_epochs: int = 1
    """Epochs at the start in which the last layer stands still. Raise it if the loss does not fall."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature_start: float = 0.04
    """Temperature of the teacher's softmax at the start. Lower it if the loss stays at ln K."""
    teacher_temperature: float = 0.07
    """Temperature of the teacher's softmax after its warm-up."""
    teacher_temperature_epochs: int = 30
    """Epochs of that linear warm-up."""
    centre_momentum: float = 0.9
    """EMA of the centre that is taken from the teacher's outputs."""
    teacher_momentum: float = 0.996
    """EMA of the teacher at the start; rises to 1 along a cosine. Lower it for small batches and short runs."""


@dataclass
class OptimiserConfig:
    """AdamW and its schedules."""

    lr: float = 5e-4
    """Peak learning rate for a batch of 256; scaled linearly with the batch."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: int = 10
    """Epochs of linear warm-up of the learning rate."""
    weight_decay: float = 0.04
    """Weight decay at the start (biases and norms have none)."""
    weight_decay_end: float = 0.4
    """Weight decay at the end of its cosine."""
    clip_grad: float = 3.0
    """Largest norm of one parameter's gradient, 0 for none (per parameter, as the reference does)."""


@dataclass
class Recipe:
    """Everything that decides what is learnt, apart from the data."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 64
    """Pictures per step."""
    seed: int = 0
    """Seed of everything that is random."""

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if (
            min(
                self.dino.student_temperature,
                self.dino.teacher_temperature_start,
                self.dino.teacher_temperature,
            )
            <= 0
        ):
            raise UserError("The temperatures of dino must be above 0.")


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Rebuild the recipe that `dataclasses.asdict` wrote into a checkpoint."""
    parts = {
        "backbone": BackboneConfig,
        "crops": CropsConfig,
        "dino": DinoConfig,
        "optimiser": OptimiserConfig,
    }
    built: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items()}
    built["crops"] = dataclasses.replace(
        built["crops"],
        global_scale=tuple(values["crops"]["global_scale"]),
        local_scale=tuple(values["crops"]["local_scale"]),
    )
    return Recipe(**{**values, **built})


def find_recipe(name_or_path: str) -> Path:
    """Return the recipe at a path, or the one of that name among those that ship in `config/pretrain`.

    Raises UserError that lists the names when there is neither.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    # Above this file stand the source tree, or the prefix that pip or colcon installed into.
    folders = [above / place for above in Path(__file__).resolve().parents for place in SHIPPED]
    shipped = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise UserError(
        f"There is no recipe {name_or_path!r}: give the path of a YAML file or one of these names: "
        f"{', '.join(shipped)}."
    )
