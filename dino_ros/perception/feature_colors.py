"""Patch tokens as colors: the first three principal components of a student's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Backend
from dino_ros.backends.parity import input_batch, shipped_images
from dino_ros.student import StudentInfo

TAILS = (2.0, 98.0)
"""Percentiles of each component between which its color is nearly linear."""


@dataclass(frozen=True, eq=False)
class FeatureColors:
    """A student's colors: the same for every frame, on every start and machine, up to an engine's rounding.

    The components are those of the shipped images and not of the frame in hand, whose own would change from frame to
    frame.
    """

    center: NDArray[np.float32]
    """[C]: the token whose color is gray."""
    axes: NDArray[np.float32]
    """[C, 3]: directions in which red, green and blue grow, scaled so that 1 is nearly the full color."""

    @classmethod
    def of(cls, backend: Backend, info: StudentInfo) -> FeatureColors:
        """The colors of a student, from its features of the shipped images: an engine run for each of the four."""
        batch = input_batch(shipped_images(), info.height, info.width)
        return cls.fit(np.concatenate([backend(image[None], ["features"])["features"] for image in batch]))

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> FeatureColors:
        """The colors of the principal components of patch tokens [..., C], C at least 3."""
        tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
        mean = tokens.mean(axis=0)
        axes = np.linalg.eigh(np.cov(tokens, rowvar=False))[1][:, :-4:-1]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])  # the sign of an eigenvector is arbitrary
        low, high = np.percentile((tokens - mean) @ axes, TAILS, axis=0)
        center = mean + axes @ ((low + high) / 2)
        scaled = axes / np.maximum((high - low) / 2, 1e-12)
        return cls(center.astype(np.float32), scaled.astype(np.float32))

    def rgb(self, features: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Colors [h, w, 3] uint8, RGB, of features [h, w, C] float32.

        A soft limit keeps differences visible in scenes whose tokens lie far from those of the shipped images.
        """
        return np.round(127.5 + 127.5 * np.tanh((features - self.center) @ self.axes)).astype(np.uint8)
