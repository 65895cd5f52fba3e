"""The foreground head: a linear layer on a student's patch tokens that finds objects, trained without labels.

As in FOUND (Simeoni et al. 2023), a 1x1 convolution learns from masks that were found in each image alone. Two methods
that err in different ways make them, and their mean is the label; the layer learns what the masks of all images have in
common. It then learns once more from its own masks, which follow the edges of the images.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.background import background_mask
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.normalized_cut import normalized_cut_mask
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import StudentInfo, find_student
from dino_train.data.frames import Frames, open_frames
from dino_train.export.description import write_description
from dino_train.machine.progress import watched

log = logging.getLogger(__name__)

LABELS = "background and normalized_cut"
"""The mask methods whose masks are the first labels."""
OWN = MaskParameters("foreground", steady=0.0)
"""How the head's own masks are made that it learns from afterwards."""
ROUNDS = 1
"""Times that it does so. Three lost up to 3 points of IoU against one, on real images."""
MOST_FRAMES = 400
"""Frames looked at, at most."""
MOST_TOKENS = 500_000
"""Patch tokens looked at, at most: this limits the number of frames of students with large grids."""
MOST_FITTED = 50_000
"""Of these, tokens of the fit, at most, drawn at random: four times as many changed the IoU by under half a point."""
FEWEST = 10
"""Frames needed, at least."""
FEW = 200
"""Frames below which a warning is given: on real video, a head learned on 64 frames of ten scenes lost 9 points of IoU
against masks without a head, and one learned on 400 varied images 3 (benchmarks/results/own_log.md)."""
WEIGHT_DECAY = 1e-3
"""Factor of half the squared weights of the standardized layer, relative to the mean loss of a token."""
TOLERANCE = 1e-4
"""Largest difference allowed between the file's foreground and that of the trained layer."""


def add_foreground_head(
    student: str, paths: Sequence[str], topics: Sequence[str], out: Path, replace: bool = False
) -> StudentInfo:
    """Train a foreground head for a student file or a bundled student, and write the student with it to `out`.

    The student gets one more output, `foreground`, float32 [B, h, w] from 0 to 1; nothing else changes. It is trained
    on all frames. The description has the IoU with the first labels of the last fifth, of a head that did not see it.
    With `replace` a head that the student has is left out. Raises UserError for a student that has one otherwise, for
    data that cannot be read, and where the images show no object.
    """
    path = find_student(student)
    perceiver = Perceiver.load(path)
    if perceiver.info.foreground_head and not replace:
        raise UserError(
            f"{path} has a foreground head already: name the student that it was made from, or give --replace."
        )
    frames = open_frames(paths, topics)
    if len(frames) < FEWEST:
        raise UserError(
            f"{', '.join(paths)} has {len(frames)} images: a foreground head needs at least {FEWEST}: give more."
        )
    if len(frames) < FEW:
        log.warning(
            "A head learned on only %d images may find objects less well than the student does without one: give it "
            "images of more places, or compare both with `dino-train evaluate masks`.",
            len(frames),
        )
    rows, columns = perceiver.info.grid
    most = max(min(MOST_TOKENS // (rows * columns), MOST_FRAMES), FEWEST)
    numbers = evenly_spaced(len(frames), most)
    tokens, labels = labeled_tokens(perceiver, frames, numbers)
    train = len(tokens) * 4 // 5
    if not (labels[:train] > 0.5).any():
        raise UserError(f"No object was found in {', '.join(paths)}: give images that show some.")
    masks = foreground(tokens[train:], *learn(tokens[:train], labels[:train], frames, numbers[:train])) > 0.5
    agreement = float(np.mean([jaccard(a, b > 0.5) for a, b in zip(masks, labels[train:], strict=True)]))
    weights, bias = learn(tokens, labels, frames, numbers)
    names = ", ".join(Path(name).name for name in paths)
    head: dict[str, str | int | float] = {"labels": LABELS, "data": names, "images": len(tokens)}
    info = dataclasses.replace(perceiver.info, foreground_head={**head, "agreement": round(agreement, 4)})
    with replacing(out) as temporary:
        write_student(path, temporary, info, weights, bias)
        check(temporary, paths, topics, weights, bias)
    return info


def labeled_tokens(
    perceiver: Perceiver, frames: Frames, numbers: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Patch tokens [N, h, w, C] of the N numbered frames, and their first labels [N, h, w], from 0 to 1."""
    tokens, labels = [], []
    for number in watched(numbers, "finding objects", len(numbers)):
        seen = perceiver(frames[number], ("features", "attention"))
        assert seen.features is not None  # it was asked for
        assert seen.attention is not None
        tokens.append(seen.features)
        unlike_background = background_mask(seen.features, seen.attention, rounds=0)
        labels.append((unlike_background + normalized_cut_mask(seen.features, seen.attention)[0]) / 2)
    return np.stack(tokens), np.stack(labels)


def learn(
    tokens: NDArray[np.float32], labels: NDArray[np.float32], frames: Frames, numbers: Sequence[int]
) -> tuple[NDArray[np.float32], float]:
    """Weights [C] and bias of the layer, from tokens [N, h, w, C] and first labels [N, h, w] of the numbered frames."""
    weights, bias = fit(tokens, labels)
    for _ in range(ROUNDS):
        shown = watched(numbers, "outlining what the head finds", len(numbers))
        own = zip(foreground(tokens, weights, bias), shown, strict=True)
        weights, bias = fit(tokens, np.stack([along_edges(soft, frames[number]) for soft, number in own]))
    return weights, bias


def along_edges(soft: NDArray[np.float32], rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each patch [h, w] that is in the mask which the node makes of the head's output `soft` [h, w]."""
    mask = MaskMaker()({"foreground": soft}, (rgb.shape[0], rgb.shape[1]), rgb, 0, OWN).mask
    shares = cv2.resize(mask, soft.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    return shares / np.float32(255)


def fit(tokens: NDArray[np.float32], labels: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Logistic regression: weights [C] and bias for tokens [..., C] and labels [...] from 0 to 1.

    The labels must be neither all 0 nor all 1. The tokens, at most MOST_FITTED drawn at random, are standardized for
    the fit, so that WEIGHT_DECAY means the same for every student.
    """
    x, y = tokens.reshape(-1, tokens.shape[-1]), labels.ravel()
    if len(x) > MOST_FITTED:
        drawn = np.random.default_rng(0).choice(len(x), MOST_FITTED, replace=False)
        x, y = x[drawn], y[drawn]
    scaler = StandardScaler().fit(x)
    x = scaler.transform(x)
    # A token that is partly object counts as two: as object and as background, weighted by their shares.
    is_object, is_background = y > 0, y < 1
    model = LogisticRegression(C=1 / (WEIGHT_DECAY * len(x)), solver="newton-cholesky")
    model.fit(
        np.concatenate([x[is_object], x[is_background]]),
        np.repeat([1, 0], [np.count_nonzero(is_object), np.count_nonzero(is_background)]),
        sample_weight=np.concatenate([y[is_object], 1 - y[is_background]]),
    )
    weights = model.coef_[0] / scaler.scale_
    return weights.astype(np.float32), float(model.intercept_[0] - weights @ scaler.mean_)


def foreground(tokens: NDArray[np.float32], weights: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    """Output of the head for tokens [..., C]: [...], 0 to 1."""
    probability: NDArray[np.float32] = (1 / (1 + np.exp(-(tokens @ weights + bias)))).astype(np.float32)
    return probability


def write_student(student: Path, out: Path, info: StudentInfo, weights: NDArray[np.float32], bias: float) -> None:
    """Write the student with the layer added on its features."""
    model = onnx.load(student)
    graph = model.graph
    remove_head(graph)
    graph.initializer.extend(
        [
            numpy_helper.from_array(weights[:, None], "foreground_head_weights"),
            numpy_helper.from_array(np.array([bias], np.float32), "foreground_head_bias"),
            numpy_helper.from_array(np.array([-1], np.int64), "foreground_head_axis"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("MatMul", ["features", "foreground_head_weights"], ["foreground_head_product"]),
            helper.make_node("Add", ["foreground_head_product", "foreground_head_bias"], ["foreground_head_sum"]),
            helper.make_node("Squeeze", ["foreground_head_sum", "foreground_head_axis"], ["foreground_head_logits"]),
            helper.make_node("Sigmoid", ["foreground_head_logits"], ["foreground"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("foreground", TensorProto.FLOAT, ["batch", *info.grid]))
    write_description(model, info)
    onnx.save(model, out)


def remove_head(graph: GraphProto) -> None:
    """Remove the output `foreground`, if there is one, and what is computed for it alone."""
    for output in [output for output in graph.output if output.name == "foreground"]:
        graph.output.remove(output)
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used.intersection(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for constant in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(constant)


def check(path: Path, paths: Sequence[str], topics: Sequence[str], weights: NDArray[np.float32], bias: float) -> None:
    """Raise UserError if the file's foreground is not the trained layer's output for its features."""
    perceiver = Perceiver.load(path, backend="onnxruntime")
    image = perceiver.prepare_image(open_frames(paths, topics)[0])
    seen = perceiver.infer([image.input], ["features", "foreground"])[0]
    error = float(np.abs(seen["foreground"] - foreground(seen["features"], weights, bias)).max())
    log.info("parity: foreground differs from that of the trained layer by %.1e", error)
    if not error <= TOLERANCE:
        raise UserError(
            f"The foreground in the student file differs from that of the trained layer by {error:.1e}, more than "
            f"{TOLERANCE:.0e}: export the student again."
        )
