"""Patch tokens as colors: alike where the student sees the same, and the same from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends.parity import shipped_images
from dino_ros.perception.perceiver import Perceiver


@dataclass(frozen=True, eq=False)
class FeatureColors:
    """Red, green and blue for the first three principal components of a student's patch tokens.

    The components are those of the tokens of the package's own images, so a student gives a thing the same color in
    every frame, on every robot. Those of each frame, as figures in papers have them, would change with what is in view.
    """

    mean: NDArray[np.float32]
    """[C]: of the tokens."""
    components: NDArray[np.float32]
    """[C, 3]: divided by the standard deviation of the tokens along them."""

    @classmethod
    def of(cls, perceiver: Perceiver) -> FeatureColors:
        """Those of a student; runs it on a few images."""
        results = [perceiver(image, ["features"]).features for image in shipped_images()]
        tokens = np.concatenate([result.reshape(-1, result.shape[-1]) for result in results if result is not None])
        return cls.fit(tokens)

    @classmethod
    def fit(cls, tokens: NDArray[np.float32]) -> FeatureColors:
        """Those of tokens [N, C], C at least 3."""
        mean = tokens.mean(axis=0, dtype=np.float64)
        variances, vectors = np.linalg.eigh(np.cov(tokens.T.astype(np.float64)))
        variances, vectors = variances[:-4:-1], vectors[:, :-4:-1]
        # A component's sign is arbitrary: its largest entry becomes positive, so that colors do not flip.
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
        scaled = vectors * signs / np.sqrt(np.maximum(variances, np.finfo(np.float32).tiny))
        return cls(mean.astype(np.float32), scaled.astype(np.float32))

    def rgb(self, features: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Colors uint8 [h, w, 3] of patch tokens [h, w, C]; gray where all three components are at their mean.

        A logistic function limits them, so tokens unlike any that the colors were fitted to do not all look alike.
        """
        return (255 / (1 + np.exp(-1.2 * (features - self.mean) @ self.components)) + 0.5).astype(np.uint8)
