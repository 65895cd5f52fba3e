"""`dino-ros info`: show a student file's description of itself."""

from __future__ import annotations

import argparse
import dataclasses

from dino_ros.commands.tables import flatten
from dino_ros.student import find_student, read_student


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")


def run(options: argparse.Namespace) -> int:
    path = find_student(options.student)
    student = read_student(path)
    values = dataclasses.asdict(student)
    del values["good_for"]
    print(path)
    for name, value in flatten({"good for": student.purpose, **values}):
        print(f"  {name:<18} {value}")
    return 0
