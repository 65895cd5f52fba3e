"""Comparing on a machine that is not quiet: in turns, by paired ratios, with an interval and the machine's load."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from dino_ros.files import write_whole


class Ratio(NamedTuple):
    """Of what is measured to its baseline, and the interval that holds it 95 times in 100."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        equal = ", no difference shown" if self.low <= 1 <= self.high else ""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}{equal})"


def paired(measured: Sequence[ArrayLike], baseline: Sequence[ArrayLike], percentile: float = 50) -> Ratio:
    """The ratio of a percentile of measured values to that of a baseline with which they took turns.

    Each sequence has the values of one turn after the other. The median is that of the ratios of each turn, so that a
    machine that slows down for a while slows both; for other percentiles a turn has too few values, and all of them are
    taken together. The interval is that of the bootstrap over turns.
    """

    def ratio(turns: NDArray[np.float64]) -> float:
        chosen = turns.astype(int)
        if percentile == 50:
            return float(np.median(medians[chosen]))
        of_measured, of_baseline = (np.concatenate([values[turn] for turn in chosen]) for values in both)
        return float(np.percentile(of_measured, percentile) / np.percentile(of_baseline, percentile))

    both = [[np.atleast_1d(np.asarray(turn, np.float64)) for turn in values] for values in (measured, baseline)]
    medians = np.array([np.median(one) / np.median(other) for one, other in zip(*both, strict=True)])
    turns = np.arange(len(medians), dtype=np.float64)
    if len(turns) < 2:
        return Ratio(ratio(turns), float("nan"), float("nan"))
    interval = bootstrap((turns,), ratio, n_resamples=1000, vectorized=False, method="percentile", rng=0)
    low, high = interval.confidence_interval
    return Ratio(ratio(turns), float(low), float(high))


def machine() -> dict[str, Any]:
    """The CPU, how many cores this process may use, and how many processes want one now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "CPU": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
    }


class Results:
    """The rows of a file: each is printed and in the file as soon as it is measured."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def add(self, part: str, title: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace the rows of a part; print a table of them at its end."""
        measured: list[dict[str, Any]] = []
        for row in rows:
            print(", ".join(f"{name} {in_words(value)}" for name, value in row.items()), flush=True)
            measured.append(row)
            self._rows[part] = measured
            write_whole(self._file, json.dumps(self._rows, indent=2).encode())
        table = Table(*measured[0], title=title)
        for row in measured:
            table.add_row(*map(in_words, row.values()))
        Console(width=140).print(table)


def in_words(value: Any) -> str:
    """A value of a row."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
