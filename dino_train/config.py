"""The settings of a run apart from its recipe (see `recipes/`): its data, its machine, and what is evaluated."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Literal

from dino_ros.errors import UserError
from dino_ros.images.near_duplicates import NEAR_DUPLICATE_THRESHOLD


@dataclass
class DataConfig:
    """Where the images come from."""

    paths: list[str]
    """Bags, folders of images, tar shards and videos."""
    topics: list[str] = field(default_factory=list)
    """Image topics of bags (default: all of them)."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often images are drawn, by path or topic (default: 1)."""
    near_duplicate_threshold: float = NEAR_DUPLICATE_THRESHOLD
    """Leave out frames of bags and videos that differ by fewer gray levels from the last kept frame; 0 keeps all."""

    def absolute(self) -> DataConfig:
        """Return a copy whose paths are valid from any working directory."""
        weights = {absolute(key) if key in self.paths else key: weight for key, weight in self.weights.items()}
        return dataclasses.replace(self, paths=[absolute(path) for path in self.paths], weights=weights)


@dataclass
class EvaluationConfig:
    """What a separate process evaluates every few epochs."""

    every: float = 10
    """Epochs between the checkpoints that are kept and evaluated; 0 keeps none. Lower it for runs of few epochs."""
    while_training: bool = True
    """Evaluate while training goes on. Set to false to evaluate once it has ended, for example to measure speed."""
    knn: str | None = None
    """Folder with `train/<class>/` and `val/<class>/` images, for k-NN: gives a curve of accuracy and keeps the best
    checkpoint."""
    frames: list[str] = field(default_factory=list)
    """Images to draw the attention in, if some scenes matter more to you (default: six from the data)."""

    def absolute(self) -> EvaluationConfig:
        """Return a copy whose paths are valid from any working directory."""
        knn = absolute(self.knn) if self.knn else None
        return dataclasses.replace(self, knn=knn, frames=[absolute(path) for path in self.frames])


@dataclass
class ComparisonConfig:
    """What a distilled student and its teacher are compared on at the end, apart from k-NN on `evaluation.knn`."""

    size: str = ""
    """HxW to export and time both at, in multiples of the patch size (default: the aspect of the images, at
    the cost of 224x224)."""
    data: str | None = None
    """Bag or folder of images that were not trained on (default: the training data)."""
    topic: str | None = None
    """Image topic of that bag."""
    masks: str | None = None
    """Ground truth for `data`: a folder of PNGs with the same names, or a topic of the bag."""


@dataclass
class MachineConfig:
    """What fits a run to the machine; none of it is part of the recipe."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; "auto" is the GPU if there is one. cpu leaves the GPU to other programs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products; "auto" is bf16 if the GPU or CPU has instructions for it, else fp32. fp32
    where a loss is not finite; fp16 for GPUs before Ampere, which have no bf16."""
    compile: bool = False
    """Compile the networks with torch.compile, for runs of hours on a GPU: takes minutes at the start and speeds up
    steps; not on a CPU."""
    accumulate: int = 1
    """Gradient accumulation: parts that each process splits its share of the batch into. Raise it where a batch does
    not fit into memory."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time. Where patches of 8 pixels do not
    fit."""
    threads: int | None = None
    """Threads of a process that trains on a CPU (default: $OMP_NUM_THREADS, else the cores that are free when the run
    starts, or fewer for a small model). Threads that wait for a busy core take longer than one: lower it where other
    programs run beside."""
    workers: int | None = None
    """Processes per GPU that decode and crop (default: one per core, at most 8; on a CPU one per 8 cores). Raise it
    where the GPU waits for images, lower it where memory is short."""


@dataclass
class SlurmConfig:
    """A job on a SLURM cluster."""

    partition: str
    """Partition to submit to; `sinfo` lists them."""
    nodes: int = 1
    """Hosts. More than one only where the GPUs of one are too few: they wait for the network."""
    gpus: int = 8
    """GPUs per host, with one process each."""
    cpus_per_gpu: int = 10
    """Cores per GPU, for decoding and cropping. What the hosts have, divided by their GPUs."""
    hours: float = 24.0
    """Time limit of one job; a run that takes longer is resubmitted and resumes. Shorter jobs start
    sooner on most clusters."""
    requeues: int = 20
    """How often a run is resubmitted at most."""


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "HxW"; raises UserError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UserError(f"--size {text} is not HxW: write, for example, 224x224.")
    return int(height), int(width)


def absolute(path: str) -> str:
    """Absolute path."""
    return os.path.abspath(path)  # keeps the names of links, which weights may refer to
