"""`dino-ros bench`: measure how fast a student runs on this machine and where time goes."""

from __future__ import annotations

import argparse
from pathlib import Path

from dino_ros.commands.student_options import add_backend, add_student
from dino_ros.errors import UserError
from dino_ros.files import check_writable

DESCRIPTION = """\
Measure the latency of each stage (resize, engine, mask) and the images per
second by batch size, without ROS, into bench.json and bench.png. Takes half a
minute on two CPU cores; with TensorRT minutes more where it builds its engine.

    dino-ros bench student.onnx --size 1280x720
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_student(parser)
    add_backend(parser)
    parser.add_argument(
        "--size", default="640x480", help="WIDTHxHEIGHT of the camera's images: set it to your camera's"
    )
    parser.add_argument(
        "--runs", type=int, default=100, help="number of images to measure; more where p99 differs from run to run"
    )
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="folder for bench.json and bench.png")


def run(options: argparse.Namespace) -> int:
    from dino_ros.perception.bench import bench, table, write

    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size {options.size} is not WIDTHxHEIGHT: write it as in 640x480.")
    check_writable(options.out)
    measured = bench(
        options.student, options.backend, int(width), int(height), options.runs, lambda line: print(line, flush=True)
    )
    print("\n".join(table(measured)))
    write(measured, options.out)
    print(f"Look at {options.out / 'bench.png'}.")
    return 0
