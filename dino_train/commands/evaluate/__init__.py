"""`dino-train evaluate`: one file for each evaluation, with `parser` and `run` as the commands have them."""

from __future__ import annotations

from types import ModuleType

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate import copies, jaccard, knn, linear, masks, pictures, probe, retrieval, video

EVALUATIONS: dict[str, tuple[ModuleType, str]] = {
    "knn": (knn, "classes by nearest neighbors of the embedding"),
    "linear": (linear, "classes by a linear classifier of frozen features, the paper's protocol"),
    "retrieval": (retrieval, "places by the embedding"),
    "copies": (copies, "distorted copies by embedding and patch features, the paper's protocol"),
    "jaccard": (jaccard, "attention masks against objects, the paper's protocol"),
    "masks": (masks, "every way to make masks: overlap, outline, steadiness, time"),
    "video": (video, "objects of a video's first frame followed by patch features, the paper's DAVIS protocol"),
    "probe": (probe, "numbers of another topic of the bag, from frozen features"),
    "pictures": (pictures, "attention, masks and features to look at"),
}
"""Modules, and what `--help` says of them."""


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate`, but for its evaluations."""
    return ArgumentParser(description="Score features and masks; every evaluation prints a table.")


def add_evaluations(parser: ArgumentParser) -> None:
    """Add them to a parser that already is a subcommand: jsonargparse wants the levels from above."""
    evaluations = parser.add_subcommands(required=True, dest="evaluation")
    for name, (module, purpose) in EVALUATIONS.items():
        evaluations.add_subcommand(name, module.parser(), help=purpose)


def run(options: Namespace) -> None:
    """`dino-train evaluate`."""
    EVALUATIONS[options.evaluation][0].run(options[options.evaluation])
