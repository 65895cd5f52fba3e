"""The command `dino-ros`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError
from dino_ros.files import check_writable, unusable_file


def main() -> None:
    """Run `dino-ros`; bad input prints one sentence and exits with code 2."""
    parser = argparse.ArgumentParser(prog="dino-ros", description="Self-supervised vision for robots.")
    commands = parser.add_subparsers(required=True)

    demo = commands.add_parser("demo", help="play a recording through the nodes and draw the masks")
    demo.add_argument("path", nargs="?", type=Path, help="bag, video or folder of images (default: a rendered table)")
    demo.add_argument("--topic", help="image topic of the bag; may be left out if it has only one")
    demo.add_argument("--model", default="", help="student file, or the name of a bundled student")
    demo.add_argument("--backend", default="auto", help="engine that runs the student")
    demo.add_argument("--transport", default="raw", choices=["raw", "compressed"], help="how the camera publishes")
    demo.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for images and summary")
    demo.set_defaults(run=run_demo_command)

    info = commands.add_parser("info", help="show a student file's description of itself")
    info.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")
    info.set_defaults(run=show_info)

    doctor = commands.add_parser("doctor", help="look at what the node needs on this machine, and say what to do")
    doctor.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")
    doctor.set_defaults(run=run_doctor)

    bench = commands.add_parser("bench", help="measure how fast a student runs on this machine and where time goes")
    bench.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")
    bench.add_argument("--backend", default="auto", help="engine that runs it")
    bench.add_argument("--size", default="640x480", help="WIDTHxHEIGHT of the camera's images")
    bench.add_argument("--runs", type=int, default=100, help="number of images to measure")
    bench.add_argument("--out", type=Path, default=Path("bench_output"), help="folder for bench.json and bench.png")
    bench.set_defaults(run=run_bench)

    engine = commands.add_parser("engine", help="build a student's TensorRT engine before the robot needs it")
    engine.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")
    engine.add_argument(
        "--target",
        type=lambda text: text.split(","),
        help="compute capabilities to build for with TensorRT-RTX, such as sm86,sm89; needs no GPU (default: this "
        "machine's GPU)",
    )
    engine.add_argument("--batch", type=int, default=1, help="largest batch, that is the number of cameras")
    engine.add_argument("--out", type=Path, help="folder for the engines of --target (default: this machine's cache)")
    engine.add_argument("--backend", choices=["tensorrt", "tensorrt_rtx"], help="default: whichever is installed")
    engine.set_defaults(run=build_engines)

    options = parser.parse_args()
    try:
        sys.exit(options.run(options))
    except UserError as error:
        print(f"dino-ros: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"dino-ros: {unusable_file(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run_demo_command(options: argparse.Namespace) -> int:
    """`dino-ros demo`: returns 1 if no mask arrived."""
    try:
        from dino_ros.demo.run import run_demo
    except ImportError as error:
        raise UserError(
            f"The demo needs ROS 2 ({error}): source its setup.bash, or run `make demo` in a clone, which installs it."
        ) from error
    summary = run_demo(options.path, options.topic, options.out, options.model, options.backend, options.transport)
    for name, value in flatten(summary):
        print(f"  {name:<18} {value}")
    if not summary["masks_received"]:
        print("dino-ros: no mask arrived: see the nodes' log above.", file=sys.stderr)
        return 1
    print(f"Look at {options.out / 'overlay.mp4'} and {options.out / 'contact_sheet.png'}.")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """`dino-ros doctor`: returns 1 if there is a problem."""
    from dino_ros.doctor import PROBLEM, examine

    levels = []
    for level, subject, sentence in examine(options.student):
        print(f"{level:<9}{subject:<18}{sentence}", flush=True)
        levels.append(level)
    return int(PROBLEM in levels)


def run_bench(options: argparse.Namespace) -> int:
    """`dino-ros bench`."""
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


def flatten(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """Rows of a table: name and value, with nested values as `name key`."""
    rows: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", inner) for key, inner in value.items()]
        else:
            rows.append((name, "unknown" if value is None else value))
    return rows


def show_info(options: argparse.Namespace) -> int:
    """`dino-ros info`."""
    from dino_ros.student import find_student, read_student

    path = find_student(options.student)
    student = read_student(path)
    values = dataclasses.asdict(student)
    del values["good_for"]
    print(path)
    for name, value in flatten({"good for": student.purpose, **values}):
        print(f"  {name:<18} {value}")
    return 0


def build_engines(options: argparse.Namespace) -> int:
    """`dino-ros engine`."""
    from dino_ros.backends.ahead_of_time import engine_here, engines_for
    from dino_ros.student import find_student

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


if __name__ == "__main__":
    main()
