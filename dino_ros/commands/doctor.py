"""`dino-ros doctor`: look at what the node needs on this machine, and say what to do about what is missing."""

from __future__ import annotations

import argparse

from dino_ros.commands.student_options import add_student

DESCRIPTION = """\
Look at ROS, shared memory, GPU, engines and caches, and say what to do about
each thing that is missing. Changes nothing; takes seconds. Exits with 1 if the
node cannot work here.

    dino-ros doctor
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_student(parser)


def run(options: argparse.Namespace) -> int:
    """Returns 1 if there is a problem."""
    from dino_ros.doctor import PROBLEM, examine

    levels = []
    for level, subject, sentence in examine(options.student):
        print(f"{level:<9}{subject:<18}{sentence}", flush=True)
        levels.append(level)
    return int(PROBLEM in levels)
