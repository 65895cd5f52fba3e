"""`dino-ros info`: show a student file's description of itself."""

from __future__ import annotations

import argparse
import dataclasses

from dino_ros.commands.student_options import add_student
from dino_ros.commands.tables import flatten
from dino_ros.student import find_student, read_student

DESCRIPTION = """\
Print what a student file says of itself: what it is good for, its input size
and precision, where its weights come from, and their license. Takes a second.

    dino-ros info student.onnx
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_student(parser)


def run(options: argparse.Namespace) -> int:
    path = find_student(options.student)
    student = read_student(path)
    values = dataclasses.asdict(student)
    del values["good_for"]
    print(path)
    for name, value in flatten({"good for": student.purpose, **values}):
        print(f"  {name:<18} {value}")
    return 0
