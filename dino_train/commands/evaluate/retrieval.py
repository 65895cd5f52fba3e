"""`dino-train evaluate retrieval`: images of the same place found by their embedding."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.evaluate.ranking_options import add_ranking_arguments, show_rankings


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate retrieval`."""
    parser = ArgumentParser(
        description="Place recognition: rank a database of images by the cosine of their embedding and each query's. "
        "mAP by the protocol of the revisited Oxford and Paris; recall at k is the share of queries with a positive "
        "among the first k."
    )
    add_encoder_arguments(parser, size="224x224")
    add_ranking_arguments(parser)
    return parser


def run(options: Namespace) -> None:
    """`dino-train evaluate retrieval`."""
    from dino_train.evaluation.ranking.ranking import read_ground_truth
    from dino_train.evaluation.ranking.retrieval import retrieval_scores

    truth = read_ground_truth(options.data, options.truth)
    scores = {name: retrieval_scores(encoder, truth) for name, encoder in open_named_encoders(options).items()}
    show_rankings("Retrieval", truth, scores, options)
