"""`dino-train report`: rewrite the report of a run."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="Rewrite the report.html of a run. Training writes it too, every minute.")
    parser.add_argument("run", type=Path, help="folder of the run")
    return parser


def run(options: Namespace) -> None:
    from dino_train.runs.report import write_report

    print(f"Wrote {write_report(options.run)}.")
