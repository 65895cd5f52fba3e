"""Copy detection with frozen features (Caron et al. 2021, section 4.2.1; the authors' eval_copy_detection.py).

An image's descriptor is its CLS token and its patch tokens, pooled by their generalized mean (GeM, Radenovic et al.
2018). Descriptors may be whitened with the statistics of other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from dino_ros.errors import UserError
from dino_ros.images.folders import image_files
from dino_train.evaluation.encoders import Encoder, perceive_all, read_images
from dino_train.evaluation.ranking.ground_truth import GroundTruth
from dino_train.evaluation.ranking.ranking_scores import RankingScores, ranking_scores
from dino_train.machine.progress import watched

GEM_POWER = 4
LEAST_VARIANCE = 1e-5
"""Smallest variance that whitening divides by, relative to the largest, as the authors have it: below it is noise."""


def copy_detection_scores(encoder: Encoder, truth: GroundTruth, whitening: Path | None = None) -> RankingScores:
    """Rank the database by the cosine of descriptors; `whitening` is a folder of other images to learn whitening from.

    Raises UserError for a file that is no image, and for a folder of too few images for whitening.
    """
    descriptors = copy_descriptors(encoder, truth.files)
    if whitening:
        files = image_files(whitening)
        # With fewer, the variance in some directions would be unknown.
        if len(files) <= descriptors.shape[1]:
            raise UserError(
                f"{whitening} holds {len(files)} images: whitening descriptors of {descriptors.shape[1]} values needs "
                "more than that: give a folder with more as --whitening, or leave --whitening out."
            )
        descriptors = whiten(descriptors, copy_descriptors(encoder, files))
    return ranking_scores(truth, descriptors)


def copy_descriptors(encoder: Encoder, files: Sequence[Path]) -> NDArray[np.float64]:
    """Descriptors [N, 2 C] of N whole image files: embedding and GeM-pooled features."""
    seen = perceive_all(
        encoder, watched(read_images(files), "looking at images", len(files)), ("embedding", "features")
    )
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


def whiten(vectors: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """PCA-whiten vectors [N, C] so that `others` [M, C], M > C, would be centered, uncorrelated and of variance 1."""
    pca = PCA(svd_solver="covariance_eigh").fit(others)
    variances = np.maximum(pca.explained_variance_, LEAST_VARIANCE * pca.explained_variance_.max())
    whitened: NDArray[np.float64] = pca.transform(vectors) / np.sqrt(variances)
    return whitened
