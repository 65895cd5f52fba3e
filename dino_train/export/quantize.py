"""From an fp32 student to an int8 one: post-training quantization with NNCF on the user's frames, and its cost.

Matrix products, including those of attention, are computed in int8; LayerNorm, softmax, GELU, biases and residual sums
stay float. So does the patch embedding: it is 1 % of the work, and its errors would affect everything after it.
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
from dino_ros.backends.parity import TOLERANCE, Parity, compare
from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_ros.images.sampling import evenly_spaced
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import StudentInfo
from dino_train.data.frames import MixedFrames
from dino_train.evaluation.classification.class_folder import ClassFolder
from dino_train.evaluation.classification.knn import knn_scores
from dino_train.export.description import write_description

log = logging.getLogger(__name__)

CALIBRATION_FRAMES = 64
"""Frames whose activations set the quantization ranges, at most."""
HELD_OUT_FRAMES = 32
"""Frames on which the cost is measured, at most."""
HELD_OUT_SHARE = 0.2
"""Share of each source, at its end, that is held out: neighboring frames of a recording look alike."""
KNN_TOLERANCE = 0.02
"""A student that loses more k-NN accuracy (0 to 1) than this is refused, like one that fails the parity gate."""


@dataclass(frozen=True)
class Cost:
    """What quantization changed: the int8 student against the fp32 one, both in ONNX Runtime."""

    parity: Parity
    """On held-out frames."""
    frames: int
    """Number of held-out frames."""
    calibration_frames: int
    knn: tuple[float, float] | None = None
    """Accuracy, 0 to 1, of the fp32 and the int8 student; None without a labeled folder."""

    @property
    def acceptable(self) -> bool:
        """Whether it is within TOLERANCE and KNN_TOLERANCE; NaN is not."""
        knn_kept = self.knn is None or self.knn[0] - self.knn[1] <= KNN_TOLERANCE
        return self.parity.cosine >= TOLERANCE.cosine and self.parity.mask_iou >= TOLERANCE.mask_iou and knn_kept

    def __str__(self) -> str:
        return f"{self.parity}" + (f", k-NN {self.knn[0]:.1%} before and {self.knn[1]:.1%} after" if self.knn else "")

    def as_metadata(self) -> dict[str, str | int | float]:
        """The cost as `StudentInfo.quantization`."""
        facts: dict[str, str | int | float] = {
            **dataclasses.asdict(self.parity),
            "frames": self.frames,
            "calibration_frames": self.calibration_frames,
        }
        if self.knn:
            facts |= {"knn_fp32": self.knn[0], "knn_int8": self.knn[1]}
        return facts


def quantize(path: Path, frames: MixedFrames, labeled: ClassFolder | None = None) -> StudentInfo:
    """Replace the fp32 student at `path` by an int8 one; returns its description, which includes the cost.

    Calibrates on frames of the first four fifths of each source and measures the cost on frames of the rest, and by
    k-NN on `labeled` if given. Weights are symmetric per channel and activations symmetric per tensor, which every
    engine supports: NVIDIA's have no zero points. Raises UserError where nncf is missing, where there are fewer than
    two frames, and where the cost is not acceptable; the fp32 student then stays.
    """
    before = Perceiver.load(path, REFERENCE)
    calibration, held_out = choose_frames(frames)
    model = quantized(onnx.load(path), [before.prepare_image(frames[number]).input[None] for number in calibration])
    info = dataclasses.replace(before.info, precision="int8")
    with replacing(path) as temporary:
        write_description(model, info)
        onnx.save(model, temporary)
        after = Perceiver.load(temporary, REFERENCE)
        batch = np.stack([before.prepare_image(frames[number]).input for number in held_out])
        knn = (accuracy(before, labeled), accuracy(after, labeled)) if labeled else None
        cost = Cost(compare(after.backend, before.backend, batch), len(held_out), len(calibration), knn)
        if not cost.acceptable:
            raise UserError(
                f"int8 costs too much on this data ({cost}; required are at least {TOLERANCE.cosine} and "
                f"{TOLERANCE.mask_iou}, and at most {KNN_TOLERANCE:.0%} of k-NN lost): export with --precision fp32 or "
                "fp16, or give --data more like what the robot sees."
            )
        info = dataclasses.replace(info, quantization=cost.as_metadata())
        write_description(model, info)
        onnx.save(model, temporary)
    return info


def choose_frames(frames: MixedFrames) -> tuple[list[int], list[int]]:
    """Numbers of the frames for calibration, and of those held out at the end of each source; both evenly spaced.

    Raises UserError where there are fewer than two frames.
    """
    first: list[int] = []
    last: list[int] = []
    start = 0
    for source in frames.sources:
        end = start + len(source)
        middle = end - max(round(HELD_OUT_SHARE * len(source)), 1 if len(source) > 1 else 0)
        first += range(start, middle)
        last += range(middle, end)
        start = end
    if not last:  # several sources of one image each
        first, last = first[:-1], first[-1:]
    if not first:
        raise UserError(
            f"{frames.name} has one frame: --precision int8 needs at least two, to calibrate on and to measure on."
        )
    return (
        [first[index] for index in evenly_spaced(len(first), CALIBRATION_FRAMES)],
        [last[index] for index in evenly_spaced(len(last), HELD_OUT_FRAMES)],
    )


def quantized(model: onnx.ModelProto, batches: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The model with quantized matrix products, calibrated on `batches`, uint8 [1, H, W, 3] each.

    Raises UserError where nncf is missing.
    """
    os.environ["NNCF_CI"] = "1"  # otherwise NNCF reports its use to a server, without asking
    try:
        import nncf
    except ImportError as error:
        raise UserError("--precision int8 needs the package nncf: run `pip install nncf`.") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would also set that of handlers it shares
    log.info("calibrating on %d frames", len(batches))
    result: Any = nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: {"images": batch}),
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric activations, see benchmarks/results/training.md
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(types=["Conv"]),
        subset_size=len(batches),
    )
    quantized_model: onnx.ModelProto = result
    return quantized_model


def accuracy(student: Perceiver, labeled: ClassFolder) -> float:
    """k-NN accuracy, 0 to 1, at the paper's best k, 20, or the largest for which there are enough images."""
    accuracies = knn_scores(student, labeled)
    return accuracies.get(20, accuracies[max(accuracies)])
