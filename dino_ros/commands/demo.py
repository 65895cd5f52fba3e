"""`dino-ros demo`: play a recording through the nodes and draw the masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dino_ros.commands.student_options import add_model
from dino_ros.commands.tables import flatten
from dino_ros.errors import UserError

DESCRIPTION = """\
Play a recording through the camera and perception nodes, as on a robot, and
draw the masks: overlay.mp4, contact_sheet.png and summary.json with latency,
rate and lost frames. Takes as long as the recording plays, and some seconds.

    dino-ros demo drive.mcap --topic /front/image_raw
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", type=Path, help="bag, video or folder of images (default: 20 s of a rendered table)"
    )
    parser.add_argument("--topic", help="image topic of the bag, where it has several")
    add_model(parser)
    parser.add_argument(
        "--transport",
        default="raw",
        choices=["raw", "compressed"],
        help="how the camera publishes; compressed to see what a camera with JPEG, as over Wi-Fi, comes to",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the three files")


def run(options: argparse.Namespace) -> int:
    """Returns 1 if no mask arrived."""
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
