"""Ridge and k-NN regression in closed form, and how good their answers are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def ridge(x: Matrix, y: Matrix, asked: Matrix, strengths: Sequence[float]) -> list[Matrix]:
    """Linear regression with a penalty on the squared weights (Hoerl and Kennard 1970), not on the intercept.

    Learns from vectors x [N, C] and their numbers y [N, T], and answers for the vectors asked [M, C]: a matrix [M, T]
    for each strength of the penalty, above 0.
    """
    mean, target_mean = x.mean(axis=0), y.mean(axis=0)
    x, y, asked = x - mean, y - target_mean, asked - mean
    if x.shape[1] <= x.shape[0]:
        gram, right = x.T @ x, x.T @ y
    else:  # the same weights from the smaller matrix
        gram, right, asked = x @ x.T, y, asked @ x.T
    unit = np.eye(len(gram))
    return [asked @ np.linalg.solve(gram + strength * unit, right) + target_mean for strength in strengths]


def nearest_mean(x: Matrix, y: Matrix, asked: Matrix, neighbors: Sequence[float]) -> list[Matrix]:
    """k-NN regression: the mean of the k vectors with the smallest Euclidean distance, for several k.

    Shapes as in `ridge`; a k above N counts all N.
    """
    distances = (x**2).sum(axis=1) - 2 * asked @ x.T  # but for a term that is the same for all x
    order = np.argsort(distances, axis=1, kind="stable")
    return [y[order[:, : int(k)]].mean(axis=1) for k in neighbors]


def r2_scores(truth: Matrix, answers: Matrix) -> Matrix:
    """Share of the variance of truth [N, T] that the answers [N, T] explain, per column [T].

    1 is perfect, 0 as good as the mean of the truth, below 0 worse. A column of truth must vary.
    """
    residual = ((truth - answers) ** 2).sum(axis=0)
    scores: Matrix = 1 - residual / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return scores
