"""Patch tokens as colors: their first three principal components as red, green and blue, as in DINOv2's figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from dino_train.evaluation.pictures.attention_pictures import Image

SHARE = 0.01
"""Share of the tokens that may lie beyond either end of a color: a few outliers would make all others look alike."""


@dataclass(frozen=True)
class Colors:
    """Colors of patch tokens, fitted once so that a color means the same in every picture."""

    pca: PCA
    low: NDArray[np.float64]
    """[K], K at most 3: where a component is dark."""
    high: NDArray[np.float64]
    """[K]: where it is bright."""

    def __call__(self, features: NDArray[np.float32]) -> Image:
        """Color the tokens [h, w, C]: RGB [h, w, 3] uint8."""
        components = self.pca.transform(features.reshape(-1, features.shape[-1]).astype(float))[:, : len(self.low)]
        shares = (components - self.low) / np.maximum(self.high - self.low, 1e-12)
        rgb = np.zeros((*features.shape[:2], 3), np.uint8)  # black where tokens vary in fewer than three directions
        rgb[:, :, : len(self.low)] = np.round(255 * shares.clip(0, 1)).reshape(*features.shape[:2], -1)
        return rgb


def fit_colors(features: Sequence[NDArray[np.float32]]) -> Colors:
    """Fit colors on the tokens of all pictures together, [h, w, C] each."""
    tokens = np.concatenate([one.reshape(-1, one.shape[-1]) for one in features]).astype(float)
    pca = PCA(min(3, *tokens.shape), svd_solver="covariance_eigh").fit(tokens)
    count = np.count_nonzero(pca.explained_variance_ > 1e-10 * pca.explained_variance_[0])
    low, high = np.quantile(pca.transform(tokens)[:, :count], (SHARE, 1 - SHARE), axis=0)
    return Colors(pca, low, high)
