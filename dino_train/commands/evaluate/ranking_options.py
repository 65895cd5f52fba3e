"""What the evaluations that rank a database for each query have in common: their options, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from dino_train.evaluation.ranking.ranking import GroundTruth, RankingScores


def add_ranking_arguments(parser: ArgumentParser) -> None:
    """Add `--data` and `--truth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with the images of queries and database")
    parser.add_argument(
        "--truth",
        type=Path,
        required=True,
        help='JSON file: {"query.jpg": {"positives": ["a.jpg"], "ignored": ["b.jpg"]}}, names relative to the folder; '
        "the database is every image that is no query or is a positive",
    )


def show_rankings(title: str, truth: GroundTruth, scores: Mapping[str, RankingScores], options: Namespace) -> None:
    """Print the scores of encoders by name as a table; write them to the file `--out` if there is one."""
    from dino_train.evaluation.scores import Scores, show

    rows: list[Scores] = [
        {
            "encoder": name,
            "mAP": found.mean_average_precision,
            **{f"recall@{k}": share for k, share in found.recall.items()},
        }
        for name, found in scores.items()
    ]
    size = f"{len(truth.queries)} queries in {len(truth.database)} images"
    show(f"{title} on {options.data.name}: {size}", rows, options.out)
