"""The results of a comparison: a table, a JSON file and a plot, made from the folders of its runs."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dino_ros.files import write_whole
from dino_train.evaluation.scores import Scores, show
from dino_train.runs.folder import RunFolder, knn_score, read_run
from dino_train.runs.health import recent, standard_error

RESULTS_NAME = "compare.json"
PLOT_NAME = "compare.png"
HEALTH = {
    "entropy": "teacher_entropy",
    "KL": "kl",
    "mean's entropy": "marginal_entropy",
    "rank": "effective_rank",
    "embedding std": "embedding_std",
}
"""Columns of the table that are means of a field over the last lines of the log, if the method logs it. Entropies and
KL are in nats."""
SHARES = {"k-NN", "±", "k-NN at start"}


class Point(NamedTuple):
    """One evaluation."""

    images: int
    """Images seen so far."""
    minutes: float
    """Training time so far."""
    knn: float
    """Accuracy, 0 to 1, for k = 20 or else the largest k."""
    error: float
    """Standard error of `knn`, from the number of images tested."""


def write_results(title: str, out: Path, names: Iterable[str]) -> None:
    """Print a table of the runs in `out` that have started, and write `compare.json` and `compare.png`."""
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
    write_whole(out / PLOT_NAME, plot(title, curves, {name: memory(run) for name, run in runs.items()}))


def points(run: RunFolder) -> list[Point]:
    """The evaluations of a run, in order of images seen."""
    batch = int(run.recipe["batch_size"])
    return [
        Point(line["step"] * batch, line["seconds"] / 60, score, standard_error(score, line["knn_images"]))
        for line in run.evaluations
        if (score := knn_score(line)) is not None
    ]


def memory(run: RunFolder) -> float:
    """Peak memory of a run, in GB; 0 before its first line of the log."""
    return max((line["memory_gb"] for line in run.log), default=0.0)


def row(name: str, run: RunFolder) -> Scores:
    """A run's row of the table; "" where it has no value."""
    curve = points(run)
    speeds = [line["images_per_second"] for line in run.log]
    columns: dict[str, float | int | str] = {
        "run": name,
        "k-NN": curve[-1].knn if curve else "",
        "±": curve[-1].error if curve else "",
        "k-NN at start": curve[0].knn if curve else "",
        "images": curve[-1].images if curve else "",
        "minutes": curve[-1].minutes if curve else "",
        "images/s": statistics.median(speeds) if speeds else "",
        "GB": memory(run) or "",
    }
    for column, field in HEALTH.items():
        value = recent(run.log, field)
        columns[column] = "" if value is None else value
    return columns


def shown(column: str, value: float | int | str) -> str:
    """Format a value for the table."""
    if isinstance(value, str):
        return value
    if column in SHARES:
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def plot(title: str, curves: dict[str, list[Point]], gigabytes: dict[str, float]) -> bytes:
    """Plot k-NN over images seen and over minutes, and peak memory; returns a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 5, 2))
    middle.sharey(left)
    for number, (name, curve) in enumerate(curves.items()):
        knn, color = [100 * point.knn for point in curve], f"C{number}"
        left.plot([point.images for point in curve], knn, color, marker="o", markersize=3, label=name)
        middle.plot([point.minutes for point in curve], knn, color, marker="o", markersize=3)
        right.bar(name, gigabytes[name], color=color)
    left.set(xlabel="images seen", ylabel="k-NN, %")
    left.locator_params("x", nbins=5)
    middle.set(xlabel="minutes of training")
    right.set(ylabel="peak memory, GB", xticks=[])
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.suptitle(title)
    png = io.BytesIO()
    figure.savefig(png, dpi=120)
    return png.getvalue()
