"""`dino-ros doctor`: look at what the node needs on this machine, and say what to do about what is missing."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")


def run(options: argparse.Namespace) -> int:
    """Returns 1 if there is a problem."""
    from dino_ros.doctor import PROBLEM, examine

    levels = []
    for level, subject, sentence in examine(options.student):
        print(f"{level:<9}{subject:<18}{sentence}", flush=True)
        levels.append(level)
    return int(PROBLEM in levels)
