"""Copy detection with frozen features (Caron et al. 2021, section 4.2.1; the authors' eval_copy_detection.py).

An image's descriptor is its CLS token and its patch tokens, pooled by their generalized mean (GeM, Radenovic et al.
2018), whitened with what other images say of the descriptors' spread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_train.data.images import image_files
from dino_train.evaluation.encoders import Encoder, perceive_all, read_images
from dino_train.evaluation.ranking.ranking import GroundTruth, RankingScores, ranking_scores

GEM_POWER = 4
LEAST_VARIANCE = 1e-5
"""Of a direction over that of the widest, as the authors: what hardly varies is noise and is not blown up."""


def copy_scores(encoder: Encoder, truth: GroundTruth, whitening: Path | None = None) -> RankingScores:
    """Find the copies of each query; `whitening` is a folder of other images that the whitening is learnt on.

    Raises UserError for a file that is no image, and where the folder holds too few for the whitening.
    """
    descriptors = copy_descriptors(encoder, truth.files)
    if whitening:
        files = image_files(whitening)
        # Fewer would leave directions in which nothing is known of the spread.
        if len(files) <= descriptors.shape[1]:
            raise UserError(
                f"{whitening} holds {len(files)} images: to whiten descriptors of {descriptors.shape[1]} values give "
                "more than that many."
            )
        descriptors = Whitening.learn(copy_descriptors(encoder, files))(descriptors)
    return ranking_scores(truth, descriptors)


def copy_descriptors(encoder: Encoder, files: Iterable[Path]) -> NDArray[np.float64]:
    """Descriptors [N, 2 C] of N whole image files: embedding, and GeM-pooled features."""
    seen = perceive_all(encoder, read_images(files), ("embedding", "features"))
    return np.stack(
        [
            np.concatenate([one.embedding, gem(one.features)])
            for one in seen
            if one.embedding is not None and one.features is not None
        ]
    )


def gem(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Generalized mean [C] of patch tokens [h, w, C], of power 4; negative values count as (almost) 0."""
    powers = np.maximum(features, 1e-6, dtype=np.float64) ** GEM_POWER
    mean: NDArray[np.float64] = powers.mean(axis=(0, 1)) ** (1 / GEM_POWER)
    return mean


@dataclass(frozen=True)
class Whitening:
    """Turns vectors so that those it was learnt on are centered, uncorrelated and of variance 1 (PCA whitening)."""

    mean: NDArray[np.float64]
    """[C]"""
    matrix: NDArray[np.float64]
    """[C, C]: a column for each direction."""

    @classmethod
    def learn(cls, vectors: NDArray[np.float64]) -> Whitening:
        """Learn it on vectors [N, C]; N must be above C."""
        mean = vectors.mean(axis=0)
        variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
        return cls(mean, directions / np.sqrt(np.maximum(variances, LEAST_VARIANCE * variances.max())))

    def __call__(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whitened vectors [N, C] of vectors [N, C]."""
        return (vectors - self.mean) @ self.matrix
