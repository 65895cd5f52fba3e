"""How well attention outlines objects: Jaccard index (IoU) of attention masks against ground truth.

The paper's protocol (Caron et al. 2021, the table in figure 4, on the validation images of VOC12): the mask of a head
is the smallest set of patches that keeps 60 % of its attention; for each object the head that covers it best counts.
The authors average over the objects of an image, then over images (facebookresearch/dino, issue 54). At which size,
and what of the void pixels, they do not say, and their script that draws such masks upsamples them by nearest pixel.
Here masks are upsampled smoothly to the image's own size, as the node does, and void pixels are left out of
intersection and union.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard, upsample_mask
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.segmentation.labeled import VOID, Labeled

KEEP_MORE = 0.8
"""The share of the attention of the masks of `best_head_per_object_80`."""


@dataclass(frozen=True)
class JaccardScores:
    """Means over images, or over all objects, 0 to 1."""

    paper: float
    """`best_head_per_object`, but averaged in each image first: the paper's number."""
    best_head_per_object: float
    """For each object the head that covers it best; the mean over objects."""
    best_head_per_object_80: float
    """The same of masks that keep 80 % of the attention."""
    best_head: float
    """For each image the head that covers all objects together best."""
    united_heads: float
    """All heads' masks united, against all objects."""
    mean_of_heads: float
    """The mask of the heads' mean attention against all objects."""
    images: int
    objects: int


def jaccard_scores(encoder: Encoder, labeled: Iterable[Labeled], keep: float = 0.6) -> JaccardScores:
    """Score an encoder's masks, which keep the share `keep` of the attention.

    Images without an object are left out. Raises UserError if none has one.
    """
    per_object: list[list[float]] = []
    per_object_80: list[list[float]] = []
    together: list[tuple[float, float, float]] = []
    for rgb, objects in labeled:
        truths = [objects == number for number in np.unique(objects) if number not in (0, VOID)]
        if not truths:
            continue
        attention = encoder(rgb, ("attention",)).attention
        assert attention is not None  # it was asked for
        judged, every = objects != VOID, np.logical_or.reduce(truths)
        masks = _head_masks(attention, keep, judged)
        mean = _full_size(attention, keep, -1, judged)
        per_object.append(_best_of_each(masks, truths))
        per_object_80.append(_best_of_each(_head_masks(attention, KEEP_MORE, judged), truths))
        united = np.logical_or.reduce(masks)
        together.append((max(jaccard(mask, every) for mask in masks), jaccard(united, every), jaccard(mean, every)))
    if not together:
        raise UserError("No image has an object in its ground truth: check that images and masks belong together.")
    best, united_heads, mean_of_heads = np.mean(together, axis=0).tolist()
    return JaccardScores(
        paper=float(np.mean([np.mean(scores) for scores in per_object])),
        best_head_per_object=float(np.mean(np.concatenate(per_object))),
        best_head_per_object_80=float(np.mean(np.concatenate(per_object_80))),
        best_head=best,
        united_heads=united_heads,
        mean_of_heads=mean_of_heads,
        images=len(together),
        objects=sum(map(len, per_object)),
    )


def _head_masks(attention: NDArray[np.float32], keep: float, judged: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Each head's mask [H, W], from attention [heads, h, w], without the pixels that are not `judged` [H, W]."""
    return [_full_size(attention, keep, head, judged) for head in range(len(attention))]


def _full_size(attention: NDArray[np.float32], keep: float, head: int, judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (upsample_mask(attention_mask(attention, keep, head), *judged.shape) > 0) & judged


def _best_of_each(masks: list[NDArray[np.bool_]], truths: list[NDArray[np.bool_]]) -> list[float]:
    return [max(jaccard(mask, truth) for mask in masks) for truth in truths]
