"""`dino-train report`: rewrite the report of a run."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Rewrite the report.html of a run, in seconds. Training writes it too, every
minute: only needed if you copied the run or deleted the report.

    dino-train report runs/mine
"""
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    return parser


def run(options: Namespace) -> None:
    from dino_train.runs.report import write_report

    print(f"Wrote {write_report(options.run)}.")
