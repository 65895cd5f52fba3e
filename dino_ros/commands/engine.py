"""`dino-ros engine`: build a student's TensorRT engine before the robot needs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from dino_ros.commands.student_options import add_student
from dino_ros.errors import UserError
from dino_ros.files import check_writable
from dino_ros.student import find_student

DESCRIPTION = """\
Build a student's TensorRT engine before the robot needs it, so that the node
starts in seconds: for this machine's GPU into its cache, or for other GPUs into
files. TensorRT takes minutes for each; TensorRT-RTX seconds, and needs no GPU.

    dino-ros engine student.onnx --batch 2
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_student(parser)
    parser.add_argument(
        "--target",
        type=lambda text: text.split(","),
        help="compute capabilities to build for with TensorRT-RTX, such as sm86,sm89, where the robot's GPU is another "
        "(default: this machine's GPU)",
    )
    parser.add_argument("--batch", type=int, default=1, help="largest batch: the number of cameras of the node")
    parser.add_argument("--out", type=Path, help="folder for the engines of --target (default: this machine's cache)")
    parser.add_argument(
        "--backend",
        choices=["tensorrt", "tensorrt_rtx"],
        help="the one that the robot has, where both are installed here (default: the one that is installed)",
    )


def run(options: argparse.Namespace) -> int:
    from dino_ros.backends.ahead_of_time import engine_here, engines_for

    path = find_student(options.student)
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}: give the number of cameras, 1 or more.")
    if not options.target:
        if options.out:
            raise UserError("--out needs --target: an engine for this machine goes into the cache.")
        print(f"Ready: {engine_here(path, options.backend or '', options.batch, report=print)}.")
        return 0
    if options.backend == "tensorrt":
        raise UserError(
            "--backend tensorrt builds only for the GPU of this machine: leave out --target, or choose tensorrt_rtx."
        )
    if options.out:
        check_writable(options.out)
    built = engines_for(path, options.target, options.batch, options.out, report=print)
    print(f"{'target':<8}{'precision':<11}{'batch':<7}{'seconds':<9}{'MB':<8}file")
    for record, file in built:
        key = record.key
        target = f"sm{key.capability.replace('.', '')}"
        print(
            f"{target:<8}{key.precision:<11}{key.largest_batch:<7}{record.seconds:<9}{record.bytes / 1e6:<8.1f}{file}"
        )
    return 0
