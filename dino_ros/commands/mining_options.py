"""Options that commands which look for frames in recordings share."""

from __future__ import annotations

import argparse

from dino_ros.commands.student_options import add_model

RATE = 1.0
RATE_HELP = (
    "frames per second of the recording to look at, 0 for all: raise it for what is in view for less than a second "
    "(images of a folder count as 30 a second)"
)
TOPIC_HELP = "image topic of the bags, where they have several"


def add_mining_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topic", help=TOPIC_HELP)
    add_model(parser)
    parser.add_argument("--rate", type=float, default=RATE, help=RATE_HELP)
