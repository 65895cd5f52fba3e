"""Principal components of any vectors: pixels, embeddings or patch tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pca:
    """Directions in which vectors of C numbers vary most."""

    mean: NDArray[np.float64]
    """[C]"""
    components: NDArray[np.float64]
    """[K, C], orthonormal, by falling variance. Each one's entry of largest size is positive: this fixes the sign."""

    def project(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates [..., K] of vectors [..., C]."""
        coordinates: NDArray[np.float64] = (vectors - self.mean) @ self.components.T
        return coordinates


def fit_pca(vectors: NDArray[Any], count: int) -> Pca:
    """Find the first `count` components of vectors [N, C], in float64; fewer where the vectors vary in fewer."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    centered = vectors - mean
    wide = centered.shape[1] > centered.shape[0]
    # Of the two matrices with the same spectrum the smaller.
    variances, vectors_of = np.linalg.eigh(centered @ centered.T if wide else centered.T @ centered)
    order = np.argsort(-variances)[:count]
    order = order[variances[order] > 1e-10 * variances[-1]]
    components = (vectors_of[:, order].T @ centered) if wide else vectors_of[:, order].T
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    largest = components[np.arange(len(order)), np.abs(components).argmax(axis=1)]
    return Pca(mean, components * np.sign(largest)[:, None])
