"""`dino-train evaluate pictures`: what encoders see, for a person to look at."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Draw a sheet (PNG) of some frames for every encoder, and a video (MP4) of all
frames of a bag or video: each frame, its mask and mean attention, the first
three principal components of the patch tokens as red, green and blue, and the
attention of each head. A bar says how long the video takes.

    dino-train evaluate pictures runs/mine/last.pt --data my_bag
"""
    )
    add_encoder_arguments(parser, out="folder for the pictures")
    parser.set_defaults(out=Path("pictures"))
    parser.add_argument("--data", type=Path, required=True, help="a bag, a video or a folder of images")
    parser.add_argument("--topic", type=str | None, help="image topic of the bag, if it has several")
    parser.add_argument(
        "--frames", type=int, default=6, help="evenly spaced frames on a sheet; more where scenes differ"
    )
    return parser


def run(options: Namespace) -> None:
    from dino_ros.images.sources import open_source
    from dino_train.evaluation.pictures.sheet import draw

    source = open_source(options.data, options.topic)
    for name, encoder in open_named_encoders(options).items():
        for file in draw(name, encoder, source, options.out, options.frames):
            print(file)
