"""`dino-train report`: write the report of a run again."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Options of `dino-train report`."""
    parser = ArgumentParser(description="Write report.html of a run again; it is written while the run goes on too.")
    parser.add_argument("run", type=Path, help="folder of the run")
    return parser


def run(options: Namespace) -> None:
    """`dino-train report`."""
    from dino_train.runs.report import write_report

    print(f"Look at {write_report(options.run)}.")
