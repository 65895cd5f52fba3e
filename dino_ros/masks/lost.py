"""Seed and expansion: the patch that is like fewest others is part of an object, and so are those like it.

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
"""Of the patches: among so many of least degree those are looked for that belong to the seed's object (the paper: the
100 of about 1,000)."""


def lost_mask(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft mask [h, w] from features [h, w, C].

    A patch's degree is how many patches it has a positive cosine with, after the image's mean is taken away; the seed
    is that of least degree. Objects are where the mean cosine with seed and expansion is above 0, in one part with the
    seed.
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
