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

With --trace it follows single frames through the node's threads in place of
that, into trace.json and trace.png: which stage works when, and what waits.
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
    parser.add_argument(
        "--trace", action="store_true", help="where single frames spend their time, in the node's threads"
    )
    parser.add_argument("--out", type=Path, default=Path("bench_output"), help="folder for the figures and the picture")


def run(options: argparse.Namespace) -> int:
    from dino_ros.perception import bench, trace

    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size {options.size} is not WIDTHxHEIGHT: write it as in 640x480.")
    check_writable(options.out)
    if options.trace:
        traced = trace.trace(options.student, options.backend, int(width), int(height), say)
        print("\n".join(trace.table(traced)))
        trace.write(traced, options.out)
        print(f"Look at {options.out / 'trace.png'}: a row for each thread, dark where it works, light where it waits.")
        return 0
    measured = bench.bench(options.student, options.backend, int(width), int(height), options.runs, say)
    print("\n".join(bench.table(measured)))
    bench.write(measured, options.out)
    print(f"Look at {options.out / 'bench.png'}.")
    return 0


def say(line: str) -> None:
    print(line, flush=True)
