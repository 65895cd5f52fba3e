"""Every speed that has a goal, beside its goal: runs the quick benchmarks and writes the table of results/speed.md.

    python benchmarks/speed.py --runs 5            # twenty minutes a run
    python benchmarks/speed.py runtime --runs 5    # eight of them: camera to mask, the plain node, four cameras

A goal counts as met in a run if the ratio that was measured reaches it; the table says in how many runs it did. What
was measured before stays in OUT, so that a run that is broken off goes on where it was. Leave the machine alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from measuring import machine

from dino_ros.files import write_whole
from dino_ros.student import DEFAULT_STUDENT

HERE = Path(__file__).parent
BENCHMARKS = {
    "runtime": ["runtime.py", "--quick"],
    "training": ["training.py", "--quick"],
    "bag_reading": ["bag_reading.py"],
    "many_bags": ["many_bags.py", "--turns", "3"],
    "starting": ["starting.py", "--turns", "5"],
}
"""Each writes OUT/NAME.json."""


class Goal(NamedTuple):
    """A number of a benchmark's file, and the limit that it should not pass."""

    what: str
    limit: float
    lower: bool
    """Whether lower is better."""
    benchmark: str
    part: str
    row: dict[str, str]
    """What the columns of the row say."""
    column: str

    def found_in(self, results: dict[str, Any]) -> list[float] | None:
        """The number, with its interval if it has one; None where it was not measured."""
        for row in results.get(self.part, []):
            if self.row.items() <= row.items():
                value = row[self.column]
                return value if isinstance(value, list) else [value]
        return None

    def met(self, value: float) -> bool:
        """Whether a number, as it is printed, reaches the goal."""
        return round(value, 2) <= self.limit if self.lower else round(value, 2) >= self.limit


def latency(what: str, limit: float, student: str, transport: str, column: str) -> Goal:
    """Of the time from camera to mask over the bare engine's."""
    row = {"student": student, "mask": "attention", "frames": f"VGA {transport}"}
    return Goal(f"camera to mask, {what}", limit, True, "runtime", "latency", row, column)


GOALS = [
    latency("ViT-S/16, raw, p50 over the engine's", 1.08, "vit_s_16", "raw", "p50 ratio"),
    latency("ViT-S/16, raw, p99 over the engine's", 1.4, "vit_s_16", "raw", "p99 ratio"),
    latency("ViT-S/16, compressed, p50", 1.08, "vit_s_16", "compressed", "p50 ratio"),
    latency("ViT-S/16, compressed, p99", 1.4, "vit_s_16", "compressed", "p99 ratio"),
    latency("ViT-Ti/16, raw, p50", 1.15, "vit_ti_16", "raw", "p50 ratio"),
    latency("ViT-Ti/16, compressed, p50", 1.15, "vit_ti_16", "compressed", "p50 ratio"),
    *(
        Goal(f"default mask at VGA, {what}, {student}", limit, True, "runtime", "mask", {"student": student}, column)
        for student in (DEFAULT_STUDENT, "vit_s_16")
        for what, limit, column in (("ms", 2.0, "mask p50"), ("over inference", 0.05, "mask over engine"))
    ),
    *(
        Goal(
            f"frames per second over the plain node's, {precision}, {mask} mask", limit, False,
            "runtime", "throughput", {"node": f"dino_ros, {precision}, {mask}"}, "ratio",
        )
        for precision, limit in (("fp32", 1.8), ("int8", 4.0))
        for mask in ("attention",)
    ),
    *(
        Goal(
            f"one node for four cameras over four nodes, {student}", limit, False,
            "runtime", f"cameras {student}", {"node": "one node"}, "ratio",
        )
        for student, limit in (("vit_s_16", 1.2), ("vit_ti_16", 1.5), ("vit_s_16 int8", 1.5))
    ),
    *(
        Goal(
            f"images per second of training over the plain loop's, {recipe}", 2.0, False,
            "training", f"pretrain {recipe}", {"what": f"{recipe}, batch {batch}: dino-train"}, "times plain",
        )
        for recipe, batch in (("robot_bag", 32), ("vit_small_16", 4))
    ),
    Goal(
        "share of the machine's matrix products that a step of ViT-S/16 reaches", 0.7, False,
        "training", "pretrain vit_small_16", {"what": "vit_small_16, batch 4: step"}, "of peak",
    ),
    Goal(
        "smoke on as many threads as it takes over one thread, every core busy", 1.0, False,
        "training", "busy", {"what": "smoke, every core busy, as many threads as it takes"}, "times one thread",
    ),
    *(
        Goal(
            f"reading 1280x720 frames, over decoding them, {storage}", limit, False,
            "bag_reading", "speed", {"bag": f"1280x720, {storage}", "order": order}, "ratio",
        )
        for storage, limit, order in (
            ("MCAP", 0.95, "any"), ("SQLite3", 0.95, "any"), ("MCAP, chunks zstd", 0.9, "of an epoch")
        )
    ),
    Goal(
        "indexing bags over decoding them, MCAP, CPU time", 0.9, False,
        "many_bags", "indexing", {"bags": "MCAP"}, "CPU time",
    ),
    Goal(
        "first batch of 1,000 cached bags, seconds", 10.0, True,
        "many_bags", "starting", {"bags": "1000"}, "first batch, s",
    ),
    *(
        Goal(
            f"from the start of {of} to its {step}, seconds", limit, True,
            "starting", "starting", {"of": of, "step": step}, "seconds",
        )
        for of, step, limit in (("node", "first mask", 2.0), ("dino-train --help", "end", 0.5))
    ),
]  # fmt: skip


def run(names: Sequence[str], out: Path) -> dict[str, dict[str, Any]]:
    """Run what of `names` has not been run into `out`; returns the results of each benchmark that has."""
    for name in names:
        script, *options = BENCHMARKS[name]
        done = out / f"{name}.done"
        if not done.exists():
            command = [sys.executable, str(HERE / script), *options, "--out", str(out)]
            subprocess.run(command, check=True)
            done.touch()
    return {
        name: json.loads((out / f"{name}.json").read_text()) for name in BENCHMARKS if (out / f"{name}.done").exists()
    }


def table(runs: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Markdown: a row per goal."""
    lines = ["| | goal | median of the runs | each run, with its interval | met |", "|---|---|---|---|---|"]
    for goal in GOALS:
        found = [value for results in runs if (value := goal.found_in(results.get(goal.benchmark, {}))) is not None]
        if not found:
            lines.append(f"| {goal.what} | {'≤' if goal.lower else '≥'} {goal.limit} | not measured | | |")
            continue
        each = ", ".join(
            f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
            for value, *interval in found
        )
        met = sum(goal.met(value) for value, *_ in found)
        median = statistics.median(value for value, *_ in found)
        sign = "≤" if goal.lower else "≥"
        lines.append(f"| {goal.what} | {sign} {goal.limit} | **{median:.2f}** | {each} | {met} of {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "benchmarks", nargs="*", default=list(BENCHMARKS), help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    options = parser.parse_args()
    runs = []
    for number in range(options.runs):
        out = options.out / f"run{number}"
        out.mkdir(parents=True, exist_ok=True)
        runs.append(run(options.benchmarks, out))
    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    parts = [part for results in runs for benchmark in results.values() for part in benchmark.values()]
    loads = [row["load"] for part in parts for row in part if "load" in row]
    text = (
        "# Results: speed and its goals\n\n"
        f"    python benchmarks/speed.py --runs {len(runs)}\n\n{date.today()}, {where}. "
        f"Load while measuring {min(loads)} to {max(loads)} (the benchmark itself is about 2).\n\n{table(runs)}\n"
    )
    write_whole(HERE / "results" / "speed.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
