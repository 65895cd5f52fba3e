"""Taking from patch tokens what most of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Whitening:
    """What tokens have in common taken from them, so that what tells them apart decides how alike they are."""

    mean: NDArray[np.float64]
    """[C]"""
    matrix: NDArray[np.float64]
    """[C, C]: the inverse square root of the tokens' covariance, shrunk."""

    @classmethod
    def of(cls, frames: Iterable[NDArray[np.float32]], shrinkage: float) -> Whitening:
        """Of the patch tokens [h, w, C] of frames, at least one; in one pass.

        `shrinkage` is added to the variance, relative to its mean over directions: few frames say little of most.
        """
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for frame in frames:
            tokens = frame.reshape(-1, frame.shape[-1]).astype(np.float64)
            count, total, squares = count + len(tokens), total + tokens.sum(axis=0), squares + tokens.T @ tokens
        channels = len(total)
        mean = total / count
        covariance = squares / count - np.outer(mean, mean)
        variance = max(float(np.trace(covariance)) / channels, 1e-12)
        values, vectors = np.linalg.eigh(covariance + shrinkage * variance * np.eye(channels))
        return cls(mean, (vectors / np.sqrt(values)) @ vectors.T)

    def __call__(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens [..., C], whitened: without their mean, and about 1 in variance in every direction."""
        return ((tokens - self.mean) @ self.matrix).astype(np.float32)
