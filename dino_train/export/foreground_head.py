"""A head that finds objects, trained without labels: one linear layer on a student's patch tokens, inside its file.

As in FOUND (Simeoni et al. 2023) a 1x1 convolution learns, from many images, masks that were found in each image
alone by what is unlike its background. Where single images err in different ways, it learns what they have in common.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.progress import track
from torch.nn import functional

from dino_ros.errors import UserError
from dino_ros.masks.binary import jaccard
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import METADATA_KEY, StudentInfo, find_student
from dino_train.data.frames import open_frames

log = logging.getLogger(__name__)

LABELS = MaskParameters("background", steady=0.0)
"""How the masks are made that the head learns."""
MOST_TOKENS = 500_000
"""Patch tokens that are learnt from, at most: as many frames as give so many, at even distances."""
FEWEST = 10
"""Frames that are needed at least."""
WEIGHT_DECAY = 1e-3
"""Of the standardized layer's weights, half their squared length."""
TOLERANCE = 1e-4
"""Largest difference between the file's foreground and the layer's that it was made from."""


def add_head(student: str, paths: Sequence[str], topics: Sequence[str], out: Path) -> StudentInfo:
    """Train a head for a student file, or a bundled student, on images, and write the student with it to `out`.

    The student gets an output more, `foreground`, float32 [B, h, w] of 0 to 1, and nothing else changes. The last
    fifth of the frames is not learnt from: how far head and labels agree there, as IoU, stands in the description.
    Raises UserError for a student that has a head, for data that cannot be read, and where the images show no object.
    """
    path = find_student(student)
    perceiver = Perceiver.load(path)
    if perceiver.info.foreground_head:
        raise UserError(f"{path} has a head already: name the student that it was made from.")
    tokens, labels = label(perceiver, paths, topics)
    train = len(tokens) * 4 // 5
    if not labels[:train].any():
        raise UserError(f"No object was found in {', '.join(paths)}: give frames that show some.")
    weights, bias = fit(tokens[:train], labels[:train])
    found = foreground(tokens[train:], weights, bias) > 0.5
    agreement = float(np.mean([jaccard(a, b > 0.5) for a, b in zip(found, labels[train:], strict=True)]))
    names = ", ".join(Path(name).name for name in paths)
    head: dict[str, str | int | float] = {"labels": LABELS.method, "data": names, "pictures": train}
    info = dataclasses.replace(perceiver.info, foreground_head={**head, "agreement": round(agreement, 4)})
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    try:
        write(path, temporary, info, weights, bias)
        check(temporary, paths, topics, weights, bias)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return info


def label(
    perceiver: Perceiver, paths: Sequence[str], topics: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Patch tokens [N, h, w, C] of N frames, and how much of each patch is object, [N, h, w] of 0 to 1."""
    frames = open_frames(paths, topics)
    if len(frames) < FEWEST:
        raise UserError(f"{', '.join(paths)} has {len(frames)} images: a head needs at least {FEWEST}.")
    rows, columns = perceiver.info.grid
    count = min(len(frames), max(MOST_TOKENS // (rows * columns), FEWEST))
    numbers = np.linspace(0, len(frames) - 1, count).round().astype(int)
    tokens, labels = [], []
    for number in track(numbers, description="finding objects"):
        seen = perceiver(frames[number], ("features", "mask"), LABELS)
        assert seen.features is not None  # it was asked for
        assert seen.mask is not None
        tokens.append(seen.features)
        labels.append(cv2.resize(seen.mask, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255)
    return np.stack(tokens), np.stack(labels)


def fit(tokens: NDArray[np.float32], labels: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Logistic regression: weights [C] and bias for tokens [..., C] and labels [...] of 0 to 1.

    The tokens are standardized while it is fitted, so that WEIGHT_DECAY means the same for every student.
    """
    x, y = torch.from_numpy(tokens).flatten(0, -2), torch.from_numpy(labels).flatten()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    x = (x - mean) / std
    layer = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([layer], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(x @ layer[:-1] + layer[-1], y)
        value = value + WEIGHT_DECAY / 2 * layer[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weights = layer.detach()[:-1] / std
    return weights.numpy(), float(layer.detach()[-1] - weights @ mean)


def foreground(tokens: NDArray[np.float32], weights: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    """What the head says of tokens [..., C]: [...], 0 to 1."""
    said: NDArray[np.float32] = (1 / (1 + np.exp(-(tokens @ weights + bias)))).astype(np.float32)
    return said


def write(student: Path, out: Path, info: StudentInfo, weights: NDArray[np.float32], bias: float) -> None:
    """Write the student with the layer on its features."""
    model = onnx.load(student)
    graph = model.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(weights[:, None], "head_weights"),
            numpy_helper.from_array(np.array([bias], np.float32), "head_bias"),
            numpy_helper.from_array(np.array([-1], np.int64), "head_axis"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("MatMul", ["features", "head_weights"], ["head_product"]),
            helper.make_node("Add", ["head_product", "head_bias"], ["head_sum"]),
            helper.make_node("Squeeze", ["head_sum", "head_axis"], ["head_logits"]),
            helper.make_node("Sigmoid", ["head_logits"], ["foreground"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("foreground", TensorProto.FLOAT, ["batch", *info.grid]))
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = info.to_json()
    onnx.save(model, out)


def check(path: Path, paths: Sequence[str], topics: Sequence[str], weights: NDArray[np.float32], bias: float) -> None:
    """Raise UserError if the file's foreground is not what the layer makes of its features."""
    perceiver = Perceiver.load(path, backend="onnxruntime")
    image = perceiver.prepare_image(open_frames(paths, topics)[0])
    seen = perceiver.infer([image.input], ["features", "foreground"])[0]
    error = float(np.abs(seen["foreground"] - foreground(seen["features"], weights, bias)).max())
    log.info("parity: foreground differs from the trained layer's by %.1e", error)
    if not error <= TOLERANCE:
        raise UserError(f"The student's foreground differs by {error:.1e} from the layer's: export the student again.")
