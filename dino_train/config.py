"""The settings of a run that do not change what is learnt: its data, its machine, and what is evaluated.

What decides what is learnt is the recipe: see `recipes/`.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Literal

from dino_ros.errors import UserError

NEAR_DUPLICATE_THRESHOLD = 4.0
"""Gray levels by which a frame must differ from the one kept before (`data/selection.py` says where). Just above what
noise does: frames of a scene at rest with noise of 10 gray levels differ by 3 at 320x240."""


@dataclass
class DataConfig:
    """Where the images come from."""

    paths: list[str]
    """Bags, folders of images, tar shards and videos."""
    topics: list[str] = field(default_factory=list)
    """Image topics of bags; every one where none is named."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often images are drawn, by path or topic; 1 where nothing is said."""
    near_duplicate_threshold: float = NEAR_DUPLICATE_THRESHOLD
    """Frames of bags and videos nearer than this to the one kept before are left out, in gray levels; 0 keeps all."""

    def absolute(self) -> DataConfig:
        """Return the same, to be found from any working directory."""
        weights = {absolute(key) if key in self.paths else key: weight for key, weight in self.weights.items()}
        return dataclasses.replace(self, paths=[absolute(path) for path in self.paths], weights=weights)


@dataclass
class EvaluationConfig:
    """What a process beside the training run looks at, every few epochs."""

    every: float = 10
    """Epochs between checkpoints that are kept and evaluated; 0 keeps and evaluates none."""
    while_training: bool = True
    """Evaluate while the run goes on; false: once it has ended, where cores are few and speed is compared."""
    knn: str | None = None
    """Folder with `train/<class>/` and `val/<class>/` images for k-NN."""
    frames: list[str] = field(default_factory=list)
    """Images whose attention is drawn (default: six of the data)."""

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
    """Bag or folder of images that were not trained on (default: frames of the training data)."""
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
