"""Options and table shared by the evaluations that rank a database for each query."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from dino_train.evaluation.ranking.ground_truth import GroundTruth
    from dino_train.evaluation.ranking.ranking_scores import RankingScores


def add_ranking_arguments(parser: ArgumentParser) -> None:
    """Add `--data` and `--truth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with the queries and the database")
    parser.add_argument(
        "--truth",
        type=Path,
        required=True,
        help='JSON file: {"query.jpg": {"positives": ["a.jpg"], "ignored": ["b.jpg"]}}, names relative to the folder; '
        "the database is every image that is not a query, or is a positive",
    )


def show_rankings(title: str, truth: GroundTruth, scores: Mapping[str, RankingScores], options: Namespace) -> None:
    """Print the scores of encoders, by name, as a table; write them to the file `--out` if it is given."""
    from dino_train.evaluation.scores import Scores, show

    rows: list[Scores] = [
        {
            "encoder": name,
            "mAP": one.mean_average_precision,
            **{f"recall@{k}": share for k, share in one.recall.items()},
        }
        for name, one in scores.items()
    ]
    size = f"{len(truth.queries)} queries in {len(truth.database)} images"
    show(f"{title} on {options.data.name}: {size}", rows, options.out)
