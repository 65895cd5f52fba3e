"""The recipe: typed dataclasses that a YAML file or command-line options fill.

Defaults are those of the paper for ViT-S/16 on ImageNet (Caron et al. 2021, section 3.2 and appendix), written for a
batch of any size. Each field says when to change it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from dino_ros.errors import UserError

DEFAULT_DISTANCE = 4.0
"""Grey levels by which a frame must differ from the one kept before (`data/selection.py` says where). Just above what
noise does: frames of a scene at rest with noise of 10 grey levels differ by 3 at 320x240."""

Auto = Literal["auto"]
Number = TypeVar("Number", int, float)

SHIPPED = ("config", "share/dino_ros/config")
"""Where the folders of recipes stand below the source tree, or below an installation's prefix."""


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

    out_dim: int | Auto = 65536
    """K, the dimensions of the head's output. Lower it for small data: "auto" goes from 1024 at 20,000 pictures to
    65536 at ImageNet's 1.28 million."""
    hidden_dim: int = 2048
    """Width of the head's two hidden layers."""
    bottleneck_dim: int = 256
    """Width of the normalised layer before the last one."""
    use_bn_in_head: bool = False
    """Batch norm in the head's hidden layers: for convolutional or very unstable students; ViTs do without."""
    norm_last_layer: bool = True
    """Keep the last layer's weights at unit norm. False trains a little better for large models, less stably."""
    freeze_last_layer_epochs: int = 1
    """Epochs at the start in which the last layer stands still. Raise it if the loss does not fall."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature_start: float | Auto = 0.04
    """Temperature of the teacher's softmax at the start. Lower it if the loss stays at ln K; "auto" goes from 0.015 at
    20,000 pictures to 0.04 at 1.28 million."""
    teacher_temperature: float | Auto = 0.07
    """Temperature of the teacher's softmax after its warm-up; "auto" is from 0.025 to 0.07 in the same way."""
    teacher_temperature_epochs: int = 30
    """Epochs of that linear warm-up."""
    centre_momentum: float = 0.9
    """EMA of the centre that is taken from the teacher's outputs."""
    teacher_momentum: float | Auto = 0.996
    """EMA of the teacher at the start; rises to 1 along a cosine. Lower it for short runs, raise it (0.9995) for long
    ones with small batches; "auto" goes from 0.99 at 20,000 pictures to 0.996 at 1.28 million."""


@dataclass
class OptimiserConfig:
    """The optimiser and its schedules."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW for ViTs; SGD or LARS (both with momentum 0.9) for comparisons with convolutional recipes."""
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
class DistilConfig:
    """What a student takes from its teacher: weights of the parts of the loss."""

    patches: float = 1.0
    """Of the patch tokens' cosine."""
    cls: float = 1.0
    """Of the CLS tokens' cosine. Raise it where the embedding of whole pictures is what is used."""
    attention: float = 1.0
    """Of the divergence between the CLS attentions, nats. Raise it where masks are what is used."""


@dataclass
class RunRecipe:
    """What the recipes of all methods have."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 64
    """Pictures per step, over all processes together."""
    seed: int = 0
    """Seed of everything that is random."""

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self.crops, name)
            if not 0 < low <= high <= 1:
                raise UserError(
                    f"crops.{name} is ({low}, {high}): it must be two shares of the area, 0 < low <= high <= 1."
                )


@dataclass
class Recipe(RunRecipe):
    """Everything that decides what self-distillation learns, apart from the data."""

    dino: DinoConfig = field(default_factory=DinoConfig)
    init: str | None = None
    """File to start from: an official DINO v1 backbone, an official training checkpoint (with head and centre), or a
    checkpoint of `dino-train`."""

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is out of its range."""
        super().check()
        for name in ("student_temperature", "teacher_temperature_start", "teacher_temperature"):
            value = getattr(self.dino, name)
            if value != "auto" and value <= 0:
                raise UserError(f"dino.{name} is {value}: temperatures must be above 0.")


@dataclass
class DistilRecipe(RunRecipe):
    """Everything that decides what a student learns from a teacher, apart from the data."""

    teacher: str = ""
    """Whose features and attention are learnt: a checkpoint of `dino-train` (.pt), an official DINO v1 file (.pth), or
    the timm name of an encoder (downloaded)."""
    distil: DistilConfig = field(default_factory=DistilConfig)

    def check(self) -> None:
        """Raise UserError, naming the field, where a value is missing or out of its range."""
        super().check()
        if not self.teacher:
            raise UserError("There is no teacher: name a checkpoint, a .pth file or a timm encoder with --teacher.")
        weights = dataclasses.asdict(self.distil)
        if min(weights.values()) < 0 or not any(weights.values()):
            raise UserError(f"distil is {weights}: the weights must be 0 or more, and one of them above 0.")


@dataclass
class DataConfig:
    """Where the pictures come from."""

    paths: list[str]
    """Bags, folders of pictures, tar shards and videos."""
    topics: list[str] = field(default_factory=list)
    """Image topics of bags; every one where none is named."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often pictures are drawn, by path or topic; 1 where nothing is said."""
    distance: float = DEFAULT_DISTANCE
    """Frames of bags and videos nearer than this to the one kept before are left out, in grey levels; 0 keeps all."""

    def absolute(self) -> DataConfig:
        """Return the same, to be found from any working directory."""
        weights = {absolute(key) if key in self.paths else key: weight for key, weight in self.weights.items()}
        return dataclasses.replace(self, paths=[absolute(path) for path in self.paths], weights=weights)


@dataclass
class EvaluationConfig:
    """What a process beside the training run looks at, every few epochs."""

    every: int = 10
    """Epochs between checkpoints that are kept and evaluated; 0 keeps and evaluates none."""
    knn: str | None = None
    """Folder with `train/<class>/` and `val/<class>/` pictures for k-NN."""
    frames: list[str] = field(default_factory=list)
    """Pictures whose attention is drawn (default: six of the data)."""

    def absolute(self) -> EvaluationConfig:
        """Return the same, to be found from any working directory."""
        knn = absolute(self.knn) if self.knn else None
        return dataclasses.replace(self, knn=knn, frames=[absolute(path) for path in self.frames])


@dataclass
class ComparisonConfig:
    """What a distilled student and its teacher are compared on, at the end; k-NN on the folder of `evaluation.knn`."""

    size: str = ""
    """HxW of the students that are exported and timed (default: the global crop); multiples of the patch."""
    data: str | None = None
    """Bag or folder of pictures that were not trained on (default: frames of the training data)."""
    topic: str | None = None
    """Image topic of that bag."""
    masks: str | None = None
    """Ground truth of `data`: a folder of PNGs of the same names, or a topic of the bag."""


@dataclass
class MachineConfig:
    """How fast a run goes: the choices that belong to the machine and not to the recipe."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; "auto" is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the matrix products; "auto" is bf16 where the GPU or CPU has instructions for it, else fp32."""
    compile: bool = False
    """Compile the networks with torch.compile: minutes at the start, faster steps on a GPU; of no use on a CPU."""
    accumulate: int = 1
    """Parts a process splits its share of the batch into, one after the other, to need less memory."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass: less memory, a third more time. For patches of 8 pixels."""
    workers: int | None = None
    """Processes that decode and crop, per GPU (default: one per core, at most 8; on a CPU one for 8 cores)."""


@dataclass
class SlurmConfig:
    """A job on a SLURM cluster."""

    partition: str
    """Where to submit; `sinfo` lists them."""
    nodes: int = 1
    """Hosts."""
    gpus: int = 8
    """GPUs per host; each gets a process."""
    cpus_per_gpu: int = 10
    """Cores per GPU, for decoding and cropping."""
    hours: float = 24.0
    """Time limit of one job; a run that takes longer is submitted again and goes on."""
    requeues: int = 20
    """How often at most."""


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "HxW"; raises UserError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"--size {text} is not HxW: write for example 224x224.")
    return int(height), int(width)


def absolute(path: str) -> str:
    """Path from the root of the file system."""
    return os.path.abspath(path)  # links keep their names, which weights may go by


def settled(value: Number | Auto) -> Number:
    """A setting that may have been "auto", after `resolve`."""
    if value == "auto":
        raise ValueError("the recipe was not resolved")
    return value


SMALL, LARGE = 20_000, 1_280_000
"""Numbers of pictures between which "auto" settings go from those of small data to the paper's for ImageNet."""


def resolve(recipe: RunRecipe, pictures: int) -> tuple[RunRecipe, dict[str, float]]:
    """Replace every "auto" by its value for a number of pictures; also returns what was replaced, by name.

    Between SMALL and LARGE pictures the values go along the logarithm of their number: K (a power of 2), 1 - EMA and
    the temperatures geometrically. The ends are the paper's settings for ImageNet, and what was found to work on
    robot logs of some thousand frames.
    """
    if not isinstance(recipe, Recipe):
        return recipe, {}
    share = min(max(math.log(max(pictures, 1) / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)

    def between(small: float, large: float) -> float:
        return float(f"{small * (large / small) ** share:.4g}")

    values: dict[str, float] = {
        "out_dim": 2 ** round(math.log2(between(1024, 65536))),
        "teacher_momentum": round(1 - between(0.01, 0.004), 6),
        "teacher_temperature_start": between(0.015, 0.04),
        "teacher_temperature": between(0.025, 0.07),
    }
    replaced = {name: value for name, value in values.items() if getattr(recipe.dino, name) == "auto"}
    dino = dataclasses.replace(recipe.dino, **replaced)  # type: ignore[arg-type]
    return dataclasses.replace(recipe, dino=dino), {f"dino.{name}": value for name, value in replaced.items()}


def recipe_from_dict(values: dict[str, Any]) -> RunRecipe:
    """Rebuild the recipe that `dataclasses.asdict` wrote into a checkpoint; its own section tells its kind."""
    parts = {
        "backbone": BackboneConfig,
        "crops": CropsConfig,
        "dino": DinoConfig,
        "distil": DistilConfig,
        "optimiser": OptimiserConfig,
    }
    built: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items() if name in values}
    built["crops"] = dataclasses.replace(
        built["crops"],
        global_scale=tuple(values["crops"]["global_scale"]),
        local_scale=tuple(values["crops"]["local_scale"]),
    )
    return (DistilRecipe if "distil" in values else Recipe)(**{**values, **built})


def find_recipe(name_or_path: str, kind: str = "pretrain") -> Path:
    """Return the recipe at a path, or the one of that name among those that ship for a kind: "pretrain" or "distill".

    Raises UserError that lists the names when there is neither.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    # Above this file stand the source tree, or the prefix that pip or colcon installed into.
    folders = [above / place / kind for above in Path(__file__).resolve().parents for place in SHIPPED]
    shipped = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise UserError(
        f"There is no recipe {name_or_path!r}: give the path of a YAML file or one of these names: "
        f"{', '.join(shipped)}."
    )


def load_recipe(name_or_path: str, kind: str = "pretrain") -> RunRecipe:
    """Read a recipe, by its path or by the name of one that ships; what it does not set has its default.

    Raises UserError as `find_recipe` does.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments({"pretrain": Recipe, "distill": DistilRecipe}[kind], "recipe")
    text = yaml.safe_load(find_recipe(name_or_path, kind).read_text())
    recipe: RunRecipe = parser.instantiate(parser.parse_object({"recipe": text})).recipe
    return recipe
