"""Options that `dino-ros annotate` and `dino-ros features` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dino_ros.masks.parameters import RULES, MaskParameters


def add_recording_options(parser: argparse.ArgumentParser, rate: float) -> None:
    parser.add_argument("paths", nargs="+", type=Path, help="bag, video or folder of images")
    parser.add_argument("--topic", help="image topic of the bags; may be left out where there is only one")
    parser.add_argument("--model", default="", help="student file, or the name of a bundled student")
    parser.add_argument("--backend", default="auto", help="engine that runs it")
    parser.add_argument(
        "--rate",
        type=float,
        default=rate,
        help="most frames per second of the recording to take, 0 for all: raise it for fast motion, lower it where "
        f"the camera hardly moves; below 1, objects are numbered anew in each frame (default: {rate:g})",
    )


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    for name, rule in RULES.items():
        default = getattr(MaskParameters, name)
        parser.add_argument(
            f"--mask_{name}",
            type=truth if isinstance(default, bool) else type(default),
            default=default,
            metavar=name.upper(),
            help=f"{rule.description} (default: {default})".replace("%", "%%"),
        )


def mask_parameters(options: argparse.Namespace) -> MaskParameters:
    return MaskParameters(**{name: getattr(options, f"mask_{name}") for name in RULES})


def truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"
