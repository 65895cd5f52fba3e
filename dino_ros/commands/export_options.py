"""Options that `dino-ros annotate` and `dino-ros features` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dino_ros.commands.student_options import add_model
from dino_ros.masks.parameters import RULES, MaskParameters


def add_recording_options(parser: argparse.ArgumentParser, rate: float) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, help="bag, video or folder of images; several become one data set"
    )
    parser.add_argument("--topic", help="image topic of the bags, where they have several")
    add_model(parser)
    parser.add_argument(
        "--rate",
        type=float,
        default=rate,
        help="most frames per second of the recording to take, 0 for all: raise it for fast motion, lower it where "
        "the camera hardly moves; below 1, objects are numbered anew in each frame",
    )


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    for name, rule in RULES.items():
        default = getattr(MaskParameters, name)
        parser.add_argument(
            f"--mask_{name}",
            type=truth if isinstance(default, bool) else type(default),
            default=default,
            metavar=name.upper(),
            help=rule.description.replace("%", "%%"),
        )


def mask_parameters(options: argparse.Namespace) -> MaskParameters:
    return MaskParameters(**{name: getattr(options, f"mask_{name}") for name in RULES})


def truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"
