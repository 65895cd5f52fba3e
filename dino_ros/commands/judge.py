"""`dino-ros judge`: whether a student finds objects better than another, without labels."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from dino_ros.files import check_replaceable, write_whole
from dino_ros.learning.judge import judge, why_no_better
from dino_ros.perception.perceiver import Perceiver

DESCRIPTION = """\
Say whether a student finds objects better than the one that runs, on images
that it was not trained on, without labels: how far its masks agree with those
of two methods that need no head, how steady they are in other light, and how
many are neither empty nor full. About 3 images a second on two CPU cores.

    dino-ros judge running.onnx candidate.onnx --images held_back
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("running", help="student file, or name of a bundled student")
    parser.add_argument("candidate", help="student file, or name of a bundled student, that may take its place")
    parser.add_argument(
        "--referee",
        help="student file with the features that the two methods look at, such as that of the teacher of a candidate; "
        "the running student's unless given",
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images that neither was trained on")
    parser.add_argument("--out", type=Path, help="JSON file to write the scores to")


def run(options: argparse.Namespace) -> int:
    if options.out:
        check_replaceable(options.out)
    names = ("running", "candidate")
    # One engine for both, and one that need not be built first.
    students = [Perceiver.load(getattr(options, name), "onnxruntime") for name in names]
    referee = Perceiver.load(options.referee, "onnxruntime") if options.referee else None
    running, candidate = judge(students, options.images, referee)
    for name, scores in zip(names, (running, candidate), strict=True):
        values = "  ".join(f"{key} {value:.3f}" for key, value in dataclasses.asdict(scores).items())
        print(f"{name:<9}  {values}")
    reason = why_no_better(running, candidate)
    print(f"The candidate is no better: {reason}." if reason else "The candidate is better.")
    if options.out:
        content = {"running": dataclasses.asdict(running), "candidate": dataclasses.asdict(candidate)}
        write_whole(options.out, json.dumps(content, indent=1).encode())
    return 0
