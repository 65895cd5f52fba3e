"""A database of images ranked by likeness to each query, against a ground-truth file: mean average precision, recall.

The protocol of the revisited Oxford and Paris (Radenovic et al. 2018), which is also that of Copydays but for the
ignored images: these are taken out of the ranking, as if they were not in the database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_train.data.images import image_files

RECALL_AT = (1, 5, 10)
EXAMPLE = '{"query.jpg": {"positives": ["a.jpg"], "ignored": ["b.jpg"]}}'


@dataclass(frozen=True)
class Query:
    """An image, the images that shall be found with it, and those that count neither way."""

    name: str
    positives: frozenset[str]
    ignored: frozenset[str]


@dataclass(frozen=True)
class GroundTruth:
    """Queries and database; images are named by their path in the folder."""

    folder: Path
    queries: list[Query]
    database: list[str]
    """Every image that is no query, and every query that is a positive of another."""

    @property
    def files(self) -> list[Path]:
        """Of the queries, then of the database."""
        return [self.folder / name for name in (*(query.name for query in self.queries), *self.database)]


@dataclass(frozen=True)
class RankingScores:
    """Means over queries, 0 to 1."""

    mean_average_precision: float
    recall: dict[int, float]
    """Share of queries with a positive among the first k, by k."""


def read_ground_truth(folder: Path, path: Path) -> GroundTruth:
    """Read a JSON file that names, for each query, its `positives` and (where there are any) its `ignored` images.

    Raises UserError if the file or the folder is missing, if the file is of another form, or if a query has no
    positive, names an image that is not in the folder, or names one as both or itself.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one that holds the queries and the database.")
    try:
        entries = json.loads(path.read_text())
        queries = [_query(name, entry) for name, entry in entries.items()]
    except OSError as error:
        raise UserError(f"The ground truth {path} cannot be read ({error.strerror}): give a JSON file.") from error
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no ground truth: it must be JSON such as {EXAMPLE}.") from error
    images = {file.relative_to(folder).as_posix() for file in image_files(folder)}
    for query in queries:
        if not query.positives:
            raise UserError(f"{path}: {query.name} has no positives, so nothing can be found: name some or remove it.")
        if missing := sorted(({query.name} | query.positives | query.ignored) - images):
            raise UserError(f"{path}: {missing[0]}, named by the query {query.name}, is no image in {folder}.")
        if twice := sorted(query.positives & (query.ignored | {query.name})):
            raise UserError(f"{path}: {twice[0]} is a positive of {query.name} and cannot be ignored or the query too.")
    if not queries:
        raise UserError(f"{path} names no query: it must be JSON such as {EXAMPLE}.")
    positives = frozenset().union(*(query.positives for query in queries))
    database = sorted(images - {query.name for query in queries} | positives)
    return GroundTruth(folder, queries, database)


def _query(name: str, entry: Mapping[str, Any]) -> Query:
    lists = (entry["positives"], entry.get("ignored", []))
    if not all(isinstance(names, list) for names in lists):
        raise TypeError
    positives, ignored = map(frozenset, lists)
    return Query(name, positives, ignored)


def ranking_scores(truth: GroundTruth, descriptors: NDArray[np.floating[Any]]) -> RankingScores:
    """Score descriptors [N, C] of `truth.files` by the cosine of queries and database.

    A query is never found by itself. Of equally similar images the wrong ones come first, so that descriptors that
    have collapsed score nothing.
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
    """Area under precision over recall, 0 to 1, of a ranking [N], best first, that says which are positive.

    By trapezoids, as the evaluations of Oxford, Paris and Copydays have it. Precision starts at 1 where the first is
    positive.
    """
    places = np.flatnonzero(ranking)
    count = np.arange(1, len(places) + 1)
    before = np.where(places == 0, 1.0, (count - 1) / np.maximum(places, 1))
    return float(np.mean((before + count / (places + 1)) / 2))
