"""`dino-train evaluate pictures`: what encoders see, for a person to look at."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate pictures`."""
    parser = ArgumentParser(
        description="Draw for every encoder a sheet (PNG) of some frames, and for a bag or a video one (MP4) of all: "
        "each frame, the mask and the mean attention over it, the first three principal components of the patch tokens "
        "as red, green and blue, and the attention of each head."
    )
    add_encoder_arguments(parser, out="folder for the pictures")
    parser.set_defaults(out=Path("pictures"))
    parser.add_argument("--data", type=Path, required=True, help="a bag, a video or a folder of pictures")
    parser.add_argument("--topic", type=str | None, help="image topic of the bag, where it has several")
    parser.add_argument("--frames", type=int, default=6, help="frames on a sheet, at even distances")
    return parser


def run(options: Namespace) -> None:
    """`dino-train evaluate pictures`."""
    from dino_ros.images.sources import open_source
    from dino_train.evaluation.pictures.pictures import draw

    source = open_source(options.data, options.topic)
    for name, encoder in open_named_encoders(options).items():
        for file in draw(name, encoder, source, options.out, options.frames):
            print(file)
