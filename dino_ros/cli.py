"""The command `dino-ros`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError


def main() -> None:
    """Run `dino-ros`; bad input prints one sentence and exits with code 2."""
    parser = argparse.ArgumentParser(prog="dino-ros", description="Self-supervised vision for robots.")
    commands = parser.add_subparsers(required=True)

    demo = commands.add_parser("demo", help="play a recording through the nodes and look at the masks")
    demo.add_argument("path", nargs="?", type=Path, help="bag, video or folder of pictures (default: a rendered table)")
    demo.add_argument("--topic", help="image topic of the bag; may be left out where there is only one")
    demo.add_argument("--model", default="", help="student file, or the name of a bundled one")
    demo.add_argument("--backend", default="auto", help="engine that runs the student")
    demo.add_argument("--transport", default="raw", choices=["raw", "compressed"], help="how the camera publishes")
    demo.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for pictures and summary")
    demo.set_defaults(run=run_demo_command)

    info = commands.add_parser("info", help="show what a student file says of itself")
    info.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled one")
    info.set_defaults(run=show_info)

    options = parser.parse_args()
    try:
        sys.exit(options.run(options))
    except UserError as error:
        print(f"dino-ros: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run_demo_command(options: argparse.Namespace) -> int:
    """`dino-ros demo`: returns 1 when no mask arrived."""
    try:
        from dino_ros.demo.run import run_demo
    except ImportError as error:
        raise UserError(
            f"The demo needs ROS 2 ({error}): source its setup.bash, or run `pip install 'dino_ros[ros,bags]'`."
        ) from error
    summary = run_demo(options.path, options.topic, options.out, options.model, options.backend, options.transport)
    for name, value in flatten(summary):
        print(f"  {name:<18} {value}")
    if not summary["masks_received"]:
        print("dino-ros: no mask arrived: see the nodes' log above.", file=sys.stderr)
        return 1
    print(f"Look at {options.out / 'overlay.mp4'} and {options.out / 'contact_sheet.png'}.")
    return 0


def flatten(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """Rows of the table: nested values as `name p50`."""
    rows: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", inner) for key, inner in value.items()]
        else:
            rows.append((name, "not known" if value is None else value))
    return rows


def show_info(options: argparse.Namespace) -> int:
    """`dino-ros info`."""
    from dino_ros.student import find_student, read_student

    path = find_student(options.student)
    print(path)
    for name, value in flatten(dataclasses.asdict(read_student(path))):
        print(f"  {name:<18} {value}")
    return 0


if __name__ == "__main__":
    main()
