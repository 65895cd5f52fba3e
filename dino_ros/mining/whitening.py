"""Taking from patch tokens what most of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.mining.vectors import Vectors

SHRINKAGE = 0.1
"""Added to the variance of tokens, relative to its mean over directions: few frames say little of most directions."""


@dataclass(frozen=True)
class Whitening:
    """What tokens have in common taken from them, so that what tells them apart decides how alike they are."""

    mean: NDArray[np.float64]
    """[C]"""
    matrix: NDArray[np.float64]
    """[C, C]: the inverse square root of the tokens' covariance, shrunk."""

    @classmethod
    def of(cls, recordings: Sequence[Vectors]) -> Whitening:
        """Of all tokens of recordings; in one pass."""
        channels = recordings[0].embeddings.shape[1]
        count, total, squares = 0, np.zeros(channels), np.zeros((channels, channels))
        for recording in recordings:
            for frame in recording.tokens():
                tokens = frame.reshape(-1, channels).astype(np.float64)
                count, total, squares = count + len(tokens), total + tokens.sum(axis=0), squares + tokens.T @ tokens
        mean = total / count
        covariance = squares / count - np.outer(mean, mean)
        variance = max(float(np.trace(covariance)) / channels, 1e-12)
        values, vectors = np.linalg.eigh(covariance + SHRINKAGE * variance * np.eye(channels))
        return cls(mean, (vectors / np.sqrt(values)) @ vectors.T)

    def __call__(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens [..., C], whitened: without their mean, and about 1 in variance in every direction."""
        return ((tokens - self.mean) @ self.matrix).astype(np.float32)
