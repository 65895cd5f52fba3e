"""How well attention outlines objects: Jaccard index (IoU) of attention masks against ground truth.

Caron et al. 2021, table 7 and figure 4: the mask of a head is the smallest set of patches that keeps 60 % of its
attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.encodings import to_rgb
from dino_ros.errors import UserError
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard, upsample_mask
from dino_ros.sources import IMAGE_SUFFIXES, open_source
from dino_train.data.images import decode
from dino_train.evaluation.encoders import Encoder

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A picture, RGB [H, W, 3], and its objects, [H, W]: 0 for background, 1..n for each object."""


@dataclass(frozen=True)
class JaccardScores:
    """Means over pictures (the first: over objects), 0 to 1."""

    best_head_per_object: float
    """For each object the head that covers it best (the paper's protocol)."""
    best_head: float
    """For each picture the head that covers all objects together best."""
    mean_of_heads: float
    """The mask of the heads' mean attention against all objects: what the node publishes."""
    pictures: int
    objects: int


def jaccard_scores(encoder: Encoder, labelled: Iterable[Labelled], keep: float = 0.6) -> JaccardScores:
    """Score a student's masks; pictures without an object are left out. Raises UserError if none has one."""
    per_object: list[float] = []
    best: list[float] = []
    mean: list[float] = []
    for rgb, objects in labelled:
        if not objects.any():
            continue
        attention = encoder(rgb, ("attention",)).attention
        assert attention is not None  # it was asked for
        masks = [
            upsample_mask(attention_mask(attention, keep, head), *objects.shape) > 0
            for head in range(-1, attention.shape[0])
        ]
        foreground = objects > 0
        mean.append(jaccard(masks[0], foreground))
        best.append(max(jaccard(mask, foreground) for mask in masks[1:]))
        per_object += [
            max(jaccard(mask, objects == number) for mask in masks[1:]) for number in np.unique(objects[foreground])
        ]
    if not mean:
        raise UserError("No picture has an object in its ground truth: check that pictures and masks belong together.")
    return JaccardScores(
        float(np.mean(per_object)), float(np.mean(best)), float(np.mean(mean)), len(mean), len(per_object)
    )


def labelled_folder(pictures: Path, masks: Path) -> Iterator[Labelled]:
    """Pictures of a folder, each with the PNG of the same relative name in `masks`.

    A mask of 0 and 255 is one object. Raises UserError for a folder or a mask that is missing.
    """
    files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{pictures} holds no pictures to evaluate on.")
    for file in files:
        mask = (masks / file.relative_to(pictures)).with_suffix(".png")
        if not mask.is_file():
            raise UserError(f"{mask} does not exist: every picture needs a mask of the same name.")
        yield decode(file.read_bytes(), str(file)), decode(mask.read_bytes(), str(mask))[:, :, 0]


def labelled_bag(bag: Path, topic: str, mask_topic: str) -> Iterator[Labelled]:
    """Frames of a bag's image topic, each with the message of the same stamp on the topic of masks."""
    masks = {frame.stamp: frame.image for frame in open_source(bag, mask_topic)}
    for frame in open_source(bag, topic):
        if frame.stamp in masks:
            yield frame.rgb(), to_rgb(masks[frame.stamp])[:, :, 0]
