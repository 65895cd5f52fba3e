"""Seed and expansion: the patch that is like fewest others belongs to an object, and so do the patches like it.

Simeoni et al. 2021, "Localizing Objects with Self-Supervised Transformers and no Labels" (LOST), sections 3.1 and 3.2;
on patch tokens instead of the last block's keys.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.background import unit
from dino_ros.masks.soft import soft_mask

SHARE = 0.1
"""Share of the patches, those of lowest degree, that may join the seed (in the paper 100 of about 1,000)."""


def lost_mask(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft mask [h, w] from features [h, w, C].

    A patch's degree is the number of patches with which it has a positive cosine, after the image's mean is
    subtracted; the seed is the patch of lowest degree. The object is where the mean cosine with the seed and its
    expansion is positive, within the 8-connected part that holds the seed.
    """
    grid = features.shape[:2]
    flat = features.reshape(-1, features.shape[-1])
    tokens = unit(flat - flat.mean(axis=0))
    cosines = tokens @ tokens.T
    degree = np.count_nonzero(cosines > 0, axis=1)
    candidates = np.argsort(degree, kind="stable")[: max(round(SHARE * len(tokens)), 1)]
    seed = candidates[0]
    expansion = candidates[(cosines[seed, candidates] > 0) | (candidates == seed)]
    scores = cosines[expansion].mean(axis=0).reshape(grid)
    _, labels = cv2.connectedComponents((scores > 0).astype(np.uint8), connectivity=8)
    apart = (scores > 0) & (labels != labels.ravel()[seed])
    return np.where(apart, 0, soft_mask(scores, 0.0)).astype(np.float32)
