"""Options that name a student and its engine, which most commands have."""

from __future__ import annotations

import argparse

from dino_ros.backends import BACKENDS
from dino_ros.student import DEFAULT_STUDENT

STUDENT = (
    "student file, such as `dino-train export` writes, or the name of a bundled student; give your own once you have "
    "trained one"
)


def add_student(parser: argparse.ArgumentParser) -> None:
    """The student as what the command is about."""
    parser.add_argument("student", nargs="?", default=DEFAULT_STUDENT, help=STUDENT)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The student as one option among others, and the engine that runs it."""
    parser.add_argument("--model", default=DEFAULT_STUDENT, help=STUDENT)
    add_backend(parser)


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        default="auto",
        help=f"engine that runs it: auto takes the fastest that works here; name one ({', '.join(BACKENDS)}) to "
        "compare it, or where auto takes one that you do not want",
    )
