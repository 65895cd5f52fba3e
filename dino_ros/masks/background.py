"""Objects are whatever is unlike the background, and the background is where the CLS token does not look.

After FOUND (Simeoni et al. 2023, "Unsupervised Object Localization: Observing the Background to Discover Objects"),
which seeds the background with the patch of least attention and calls everything unlike it an object. Here the seed is
the mean of the half of the patches with the least attention, purified in a few rounds, and the threshold adapts to the
image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.soft import otsu_threshold, soft_mask

ROUNDS = 3
"""Each replaces the seed by the mean of the half of the patches most like it."""
ALIKE = 0.8
"""Patches whose cosine with the background exceeds this belong to it, whatever the image's threshold: a scene may
have no objects."""


def background_mask(
    features: NDArray[np.float32], attention: NDArray[np.float32], rounds: int = ROUNDS
) -> NDArray[np.float32]:
    """Soft mask [h, w] from features [h, w, C] and attention [heads, h, w]; `rounds` purify the background."""
    tokens = features.reshape(-1, features.shape[-1])
    per_length = 1 / np.maximum(np.linalg.norm(tokens, axis=1), np.float32(1e-12))
    half = len(tokens) // 2
    foreignness = attention.mean(axis=0).ravel()
    for _ in range(1 + rounds):
        background = np.zeros_like(per_length)
        chosen = np.argpartition(foreignness, half)[:half]
        background[chosen] = per_length[chosen]  # sums the tokens at unit length without copying them
        likeness = tokens @ unit(background @ tokens) * per_length
        foreignness = -likeness
    scores = -likeness.reshape(features.shape[:2])
    return soft_mask(scores, max(otsu_threshold(scores), -ALIKE))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [..., C] scaled to length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(length, np.float32(1e-12))
    return scaled
