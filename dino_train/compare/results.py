"""What came of a comparison: a table, a JSON file and a plot, made from the folders of its runs."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dino_ros.cache import write_whole
from dino_train.evaluation.scores import Scores, show
from dino_train.run_folder import RunFolder, knn_score, read_run
from dino_train.verdict import percent, recent

RESULTS_NAME = "compare.json"
PLOT_NAME = "compare.png"
HEALTH = {
    "entropy": "teacher_entropy",
    "KL": "kl",
    "of mean": "marginal_entropy",
    "rank": "effective_rank",
    "spread": "spread",
}
"""Columns of the table, and which field of the log is in them: the mean of the last lines, where the method has it.

Entropies and KL in nats."""
SHARES = {"k-NN", "best", "start"}


class Point(NamedTuple):
    """One evaluation."""

    images: int
    """Pictures seen by then."""
    minutes: float
    """Training time by then."""
    knn: float
    """Accuracy, 0 to 1: k = 20, or the largest k that there is."""


def write_results(title: str, out: Path, names: Iterable[str]) -> None:
    """Print the table of the runs that have begun, in folders of `out`, and write `compare.json` and `compare.png`."""
    runs = {name: read_run(out / name) for name in names if (out / name / "recipe.yaml").is_file()}
    rows = [row(name, run) for name, run in runs.items()]
    if not rows:
        return
    show(title, [{column: shown(column, value) for column, value in row.items()} for row in rows])
    curves = {name: points(run) for name, run in runs.items()}
    content = {
        "title": title,
        "rows": rows,
        "curves": {name: [point._asdict() for point in curve] for name, curve in curves.items()},
    }
    write_whole(out / RESULTS_NAME, json.dumps(content, indent=2).encode())
    write_whole(out / PLOT_NAME, plot(title, curves))


def points(run: RunFolder) -> list[Point]:
    """The evaluations of a run, by pictures seen."""
    batch = int(run.recipe["batch_size"])
    scored = [(line, knn_score(line)) for line in run.evaluations]
    return [
        Point(int(line["step"]) * batch, line["seconds"] / 60, score) for line, score in scored if score is not None
    ]


def row(name: str, run: RunFolder) -> Scores:
    """A run's row of the table; what it has not got is left empty."""
    curve = points(run)
    speeds = [line["pictures_per_second"] for line in run.log]
    columns: dict[str, float | int | str] = {
        "run": name,
        "k-NN": curve[-1].knn if curve else "",
        "best": max(point.knn for point in curve) if curve else "",
        "start": curve[0].knn if curve else "",
        "pictures": curve[-1].images if curve else "",
        "minutes": curve[-1].minutes if curve else "",
        "per s": statistics.median(speeds) if speeds else "",
        "GB": max(line["memory_gb"] for line in run.log) if run.log else "",
    }
    for column, field in HEALTH.items():
        value = recent(run.log, field)
        columns[column] = "" if value is None else value
    return columns


def shown(column: str, value: float | int | str) -> str:
    """A value as the table shows it."""
    if isinstance(value, str):
        return value
    return percent(value) if column in SHARES else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def plot(title: str, curves: dict[str, list[Point]]) -> bytes:
    """k-NN over pictures seen and over minutes, a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, curve in curves.items():
        knn = [100 * point.knn for point in curve]
        left.plot([point.images for point in curve], knn, marker="o", markersize=3, label=name)
        right.plot([point.minutes for point in curve], knn, marker="o", markersize=3)
    left.set(xlabel="pictures seen", ylabel="k-NN, %")
    right.set(xlabel="minutes of training")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.suptitle(title)
    png = io.BytesIO()
    figure.savefig(png, dpi=120)
    return png.getvalue()
