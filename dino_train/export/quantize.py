"""From an fp32 student to an int8 one: quantization after training, with NNCF, on the user's frames, and what it costs.

The matrix products, those of attention among them, are computed on int8; LayerNorm, softmax, GELU, biases and the sums
between blocks stay float. So does the patch embedding: it is 1 % of the work, and every later error starts there.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dino_ros.backends import REFERENCE
from dino_ros.backends.parity import Parity, compare
from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import METADATA_KEY, StudentInfo
from dino_train.data.frames import MixedFrames
from dino_train.evaluation.classification.class_folder import ClassFolder
from dino_train.evaluation.classification.knn import knn_of

log = logging.getLogger(__name__)

CALIBRATION_FRAMES = 64
"""Frames whose activations set the ranges, at most."""
HELD_OUT_FRAMES = 32
"""Frames that the cost is measured on, at most."""
HELD_OUT_SHARE = 0.2
"""Share of each source, at its end, that the frames of the cost come from: in a log neighbors look alike."""
TOLERANCE = Parity(cosine=0.99, mask_iou=0.9)
"""A student that agrees less with its fp32 self is refused."""
KNN_TOLERANCE = 0.02
"""So is one that loses more of k-NN accuracy (0 to 1) than this."""


@dataclass(frozen=True)
class Cost:
    """What quantization changed: the int8 student against the fp32 one, both in ONNX Runtime."""

    agreement: Parity
    """On frames that were not calibrated on."""
    frames: int
    """Their number."""
    calibration_frames: int
    knn: tuple[float, float] | None = None
    """Accuracy, 0 to 1, of the fp32 and of the int8 student; None without a labeled folder."""

    @property
    def bearable(self) -> bool:
        """Whether it is within TOLERANCE and KNN_TOLERANCE; a cost that is not a number is not."""
        found = self.agreement
        kept = self.knn is None or self.knn[0] - self.knn[1] <= KNN_TOLERANCE
        return found.cosine >= TOLERANCE.cosine and found.mask_iou >= TOLERANCE.mask_iou and kept

    def __str__(self) -> str:
        """As it stands in sentences."""
        return f"{self.agreement}" + (
            f", k-NN {self.knn[0]:.1%} before and {self.knn[1]:.1%} after" if self.knn else ""
        )

    def as_metadata(self) -> dict[str, str | int | float]:
        """As it stands in the student's description."""
        facts: dict[str, str | int | float] = {
            **dataclasses.asdict(self.agreement),
            "frames": self.frames,
            "calibration_frames": self.calibration_frames,
        }
        if self.knn:
            facts |= {"knn_fp32": self.knn[0], "knn_int8": self.knn[1]}
        return facts


def quantize(path: Path, frames: MixedFrames, labeled: ClassFolder | None = None) -> StudentInfo:
    """Replace the fp32 student at `path` by an int8 one; returns its description, which holds the cost.

    Calibrates on frames of the first four fifths of each source and measures on frames of the rest; runs k-NN before
    and after on `labeled` where it is given. Weights are symmetric per channel, activations symmetric per tensor,
    which every engine takes: NVIDIA's know no zero point. Raises UserError where nncf is missing, where there are fewer
    than two frames, and, leaving the fp32 student where it is, where the cost is beyond TOLERANCE.
    """
    before = Perceiver.load(path, REFERENCE)
    calibration, held_out = choose_frames(frames)
    model = quantized(onnx.load(path), [before.prepare_image(frames[number]).input[None] for number in calibration])
    temporary = path.with_name(path.name + ".int8")
    try:
        info = describe(model, dataclasses.replace(before.info, precision="int8"))
        onnx.save(model, temporary)
        after = Perceiver.load(temporary, REFERENCE)
        batch = np.stack([before.prepare_image(frames[number]).input for number in held_out])
        knn = (accuracy(before, labeled), accuracy(after, labeled)) if labeled else None
        cost = Cost(compare(after.backend, before.backend, batch), len(held_out), len(calibration), knn)
        if not cost.bearable:
            raise UserError(
                f"Quantizing to int8 costs too much here ({cost}; at least {TOLERANCE.cosine} and {TOLERANCE.mask_iou} "
                f"are asked for, and at most {KNN_TOLERANCE:.0%} of k-NN lost): export with --precision fp32 or fp16, "
                "or give --data more like what the robot sees."
            )
        info = describe(model, dataclasses.replace(info, quantization=cost.as_metadata()))
        onnx.save(model, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return info


def choose_frames(frames: MixedFrames) -> tuple[list[int], list[int]]:
    """Numbers of the frames to calibrate on and of those to measure on, at even distances within each source.

    Raises UserError where there are fewer than two frames.
    """
    first: list[int] = []
    last: list[int] = []
    start = 0
    for source in frames.sources:
        end = start + len(source)
        kept = end - max(round(HELD_OUT_SHARE * len(source)), 1 if len(source) > 1 else 0)
        first += range(start, kept)
        last += range(kept, end)
        start = end
    if not last:  # several sources of one image each
        first, last = first[:-1], first[-1:]
    if not first:
        raise UserError(f"{frames.name} has one frame: --precision int8 needs more, to calibrate on and to measure on.")
    return evenly(first, CALIBRATION_FRAMES), evenly(last, HELD_OUT_FRAMES)


def evenly(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of the numbers, at even distances."""
    chosen = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [numbers[index] for index in chosen]


def quantized(model: onnx.ModelProto, batches: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The model with quantized matrix products, whose ranges are those on `batches`, [1, H, W, 3] each.

    Raises UserError where nncf is missing.
    """
    os.environ["NNCF_CI"] = "1"  # else NNCF reports its use to a server, without asking
    try:
        import nncf
    except ImportError as error:
        raise UserError("--precision int8 needs the package nncf: run `pip install 'dino_ros[quantize]'`.") from error
    nncf.set_log_level(logging.ERROR)
    log.info("calibrating on %d frames", len(batches))
    result: Any = nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: {"images": batch}),
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric activations: docs/training.md has the comparison
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(types=["Conv"]),
        subset_size=len(batches),
    )
    quantized_model: onnx.ModelProto = result
    return quantized_model


def describe(model: onnx.ModelProto, info: StudentInfo) -> StudentInfo:
    """Write the description into the model's metadata, in the place of the one that is there; returns it."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = info.to_json()
    return info


def accuracy(student: Perceiver, labeled: ClassFolder) -> float:
    """k-NN accuracy, 0 to 1, at the k that the paper finds best, 20, or the largest that there are images for."""
    accuracies = knn_of(student, labeled)
    return accuracies.get(20, accuracies[max(accuracies)])
