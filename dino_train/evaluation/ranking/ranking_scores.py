"""Scores of a database ranked by similarity to each query: mean average precision and recall.

The protocol of the revisited Oxford and Paris (Radenovic et al. 2018): ignored images are removed from the ranking, as
if they were not in the database. Copydays has the same protocol without ignored images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_train.evaluation.ranking.ground_truth import GroundTruth

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RankingScores:
    """Means over queries, 0 to 1."""

    mean_average_precision: float
    recall: dict[int, float]
    """Share of queries with a positive among the first k, by k."""


def ranking_scores(truth: GroundTruth, descriptors: NDArray[np.floating[Any]]) -> RankingScores:
    """Score descriptors [N, C] of `truth.files` by the cosine of queries and database.

    A query never finds itself. Among equally similar images positives come last, so that collapsed descriptors score
    nothing.
    """
    norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
    descriptors = descriptors / np.maximum(norms, np.finfo(descriptors.dtype).tiny)
    database = descriptors[len(truth.queries) :]
    precisions: list[float] = []
    found: dict[int, list[bool]] = {k: [] for k in RECALL_AT}
    for query, descriptor in zip(truth.queries, descriptors, strict=False):
        kept = np.array([name != query.name and name not in query.ignored for name in truth.database])
        positive = np.array([name in query.positives for name in truth.database])[kept]
        ranking = positive[np.lexsort((positive, -(database[kept] @ descriptor)))]
        precisions.append(average_precision(ranking))
        for k, hits in found.items():
            hits.append(bool(ranking[:k].any()))
    return RankingScores(float(np.mean(precisions)), {k: float(np.mean(hits)) for k, hits in found.items()})


def average_precision(ranking: NDArray[np.bool_]) -> float:
    """Area under precision over recall, 0 to 1, of a ranking [N], best first, that says which images are positive.

    Integrated by trapezoids, as in the evaluations of Oxford, Paris and Copydays (scikit-learn's average precision
    sums steps). Precision starts at 1 where the first image is positive.
    """
    ranks = np.flatnonzero(ranking)
    count = np.arange(1, len(ranks) + 1)
    before = np.where(ranks == 0, 1.0, (count - 1) / np.maximum(ranks, 1))
    return float(np.mean((before + count / (ranks + 1)) / 2))
