"""`dino-train evaluate retrieval`: place recognition by the embedding."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.evaluate.ranking_options import add_ranking_arguments, show_rankings
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Place recognition: rank a database of images by the cosine of their embeddings
with each query's. mAP follows the revisited Oxford and Paris; recall at k is
the share of queries with a positive among the first k. Takes one look at each
image; ViT-S/16 at 224x224 sees 15 a second on two CPU cores.

    dino-train evaluate retrieval student.onnx --data places/ --truth t.json
"""
    )
    add_encoder_arguments(parser, size="224x224")
    add_ranking_arguments(parser)
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.ranking.ground_truth import read_ground_truth
    from dino_train.evaluation.ranking.retrieval import retrieval_scores

    truth = read_ground_truth(options.data, options.truth)
    scores = {name: retrieval_scores(encoder, truth) for name, encoder in open_named_encoders(options).items()}
    show_rankings("Place recognition", truth, scores, options)
