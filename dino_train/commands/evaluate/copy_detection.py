"""`dino-train evaluate copy_detection`: find distorted copies of images by embedding and patch features."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.evaluate.ranking_options import add_ranking_arguments, show_rankings
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Copy detection, the paper's protocol for Copydays: rank a database of images by
the cosine of CLS token and GeM-pooled patch tokens, whitened or not. Takes one
look at each image; ViT-S/16 at 320x320 sees some 7 a second on two CPU cores.

    dino-train evaluate copy_detection vit.pth --data copies/ --truth t.json
"""
    )
    add_encoder_arguments(parser, size="320x320")
    add_ranking_arguments(parser)
    parser.add_argument(
        "--whitening",
        type=Path | None,
        help="folder of other images to learn whitening from, as the paper does: more than twice the values of an "
        "embedding (default: no whitening)",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.ranking.copy_detection import copy_detection_scores
    from dino_train.evaluation.ranking.ground_truth import read_ground_truth

    truth = read_ground_truth(options.data, options.truth)
    scores = {
        name: copy_detection_scores(encoder, truth, options.whitening)
        for name, encoder in open_named_encoders(options).items()
    }
    show_rankings("Copy detection", truth, scores, options)
