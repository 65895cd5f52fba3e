"""The ground truth of rankings: which images of a database should be found with each query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError
from dino_ros.images.folders import image_files

EXAMPLE = '{"query.jpg": {"positives": ["a.jpg"], "ignored": ["b.jpg"]}}'


@dataclass(frozen=True)
class Query:
    """An image, the images that should be found with it, and those that count neither way."""

    name: str
    positives: frozenset[str]
    ignored: frozenset[str]


@dataclass(frozen=True)
class GroundTruth:
    """Queries and database; images are named by their path in the folder."""

    folder: Path
    queries: list[Query]
    database: list[str]
    """Every image that is not a query, and every query that is a positive of another."""

    @property
    def files(self) -> list[Path]:
        """Files of the queries, then of the database."""
        return [self.folder / name for name in (*(query.name for query in self.queries), *self.database)]


def read_ground_truth(folder: Path, path: Path) -> GroundTruth:
    """Read a JSON file such as EXAMPLE; `ignored` may be left out.

    Raises UserError if the file or the folder is missing, if the file does not look like EXAMPLE, or if a query has no
    positive, names an image that is not in the folder, or names one as both positive and ignored, or itself.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the one that holds the queries and the database.")
    try:
        entries = json.loads(path.read_text())
        queries = [_query(name, entry) for name, entry in entries.items()]
    except OSError as error:
        raise UserError(f"The ground truth {path} cannot be read ({error.strerror}): give a JSON file.") from error
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a ground truth: it must be JSON such as {EXAMPLE}.") from error
    images = {file.relative_to(folder).as_posix() for file in image_files(folder)}
    for query in queries:
        if not query.positives:
            raise UserError(f"{path}: the query {query.name} has no positives: name some, or remove the query.")
        if missing := sorted(({query.name} | query.positives | query.ignored) - images):
            raise UserError(
                f"{path}: {missing[0]}, named by the query {query.name}, is not an image in {folder}: "
                "correct the name, or give the folder that it is relative to as --data."
            )
        if twice := sorted(query.positives & (query.ignored | {query.name})):
            raise UserError(
                f"{path}: {twice[0]} is a positive of {query.name}, so it cannot be ignored or be the query: "
                "name it once."
            )
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
