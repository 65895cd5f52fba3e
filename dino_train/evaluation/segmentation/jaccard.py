"""How well attention outlines objects: Jaccard index (IoU) of attention masks against ground truth.

The paper's protocol (Caron et al. 2021, the table in figure 4, on the validation images of VOC12): a head's mask is the
smallest set of patches that holds 60 % of its attention, and each object is scored by the head that covers it best.
The authors average over the objects of an image, then over images (facebookresearch/dino, issue 54). They do not say at
which size, nor how they treat void pixels; their script that draws such masks upsamples them by nearest pixel. Here
masks are upsampled smoothly to the image's own size, as the node does, and void pixels are left out of intersection and
union.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard, upsample_mask
from dino_ros.masks.parameters import ATTENTION
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.segmentation.labeled_images import VOID, LabeledImage

LARGER_MASS = 0.8
"""Share of the attention that the masks of `best_head_per_object_80` hold."""


@dataclass(frozen=True)
class JaccardScores:
    """Mean IoU over images, or over all objects, 0 to 1."""

    paper: float
    """As `best_head_per_object`, but averaged within each image first: what the paper reports."""
    best_head_per_object: float
    """Each object against the attention head that covers it best; mean over objects."""
    best_head_per_object_80: float
    """The same with masks that hold 80 % of the attention."""
    best_head: float
    """All objects of an image together against the attention head that covers them best."""
    united_heads: float
    """All objects together against the union of all heads' masks."""
    mean_of_heads: float
    """All objects together against the mask of the heads' mean attention."""
    images: int
    objects: int


def jaccard_scores(
    encoder: Encoder, labeled: Iterable[LabeledImage], attention_mass: float = ATTENTION.attention_mass
) -> JaccardScores:
    """Score an encoder's masks, which hold the share `attention_mass`, above 0 and at most 1, of the attention.

    Images without objects are left out. Raises UserError if none has any.
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
        masks = _head_masks(attention, attention_mass, judged)
        mean = _mask(attention, attention_mass, -1, judged)
        per_object.append(_best_of_each(masks, truths))
        per_object_80.append(_best_of_each(_head_masks(attention, LARGER_MASS, judged), truths))
        united = np.logical_or.reduce(masks)
        together.append((max(jaccard(mask, every) for mask in masks), jaccard(united, every), jaccard(mean, every)))
    if not together:
        raise UserError("No image has an object in its ground truth: check that --data and --masks belong together.")
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


def _head_masks(attention: NDArray[np.float32], mass: float, judged: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Each head's mask [H, W], from attention [heads, h, w], on the pixels that are `judged` [H, W]."""
    return [_mask(attention, mass, head, judged) for head in range(len(attention))]


def _mask(attention: NDArray[np.float32], mass: float, head: int, judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (upsample_mask(attention_mask(attention, mass, head), *judged.shape) > 0) & judged


def _best_of_each(masks: list[NDArray[np.bool_]], truths: list[NDArray[np.bool_]]) -> list[float]:
    return [max(jaccard(mask, truth) for mask in masks) for truth in truths]
