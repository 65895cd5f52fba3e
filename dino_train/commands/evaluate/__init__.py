"""`dino-train evaluate`: a file for each evaluation, with `parser` and `run` like those of commands."""

from __future__ import annotations

from types import ModuleType

from jsonargparse import ArgumentParser, Namespace

from dino_ros.files import check_replaceable, check_writable
from dino_train.commands.evaluate import (
    copy_detection,
    jaccard,
    knn,
    linear,
    masks,
    pictures,
    policy,
    probe,
    retrieval,
    video,
)
from dino_train.commands.parser import CommandParser

EVALUATIONS: dict[str, tuple[ModuleType, str]] = {
    "knn": (knn, "classes by nearest neighbors of the embedding"),
    "linear": (linear, "classes by a linear classifier on frozen features, the paper's protocol"),
    "retrieval": (retrieval, "place recognition by the embedding"),
    "copy_detection": (copy_detection, "distorted copies by embedding and patch features, the paper's protocol"),
    "jaccard": (jaccard, "attention masks against objects, the paper's protocol"),
    "masks": (masks, "masks of every method: overlap, boundary, steadiness, time"),
    "video": (video, "objects of a video's first frame tracked by patch features, the paper's DAVIS protocol"),
    "probe": (probe, "values of another topic of the bag, predicted from frozen features"),
    "policy": (policy, "a simulated arm reaches, pushes and picks by what was cloned on frozen features"),
    "pictures": (pictures, "attention, masks and features to look at"),
}
"""Module of each evaluation, and its line in `--help`."""


def parser() -> ArgumentParser:
    """Parser without the evaluations, which `add_evaluations` adds."""
    return CommandParser(
        description="""\
Score features and masks of one or several encoders; every evaluation prints a
table. Begin with `masks` if you want masks, with `knn` if you want features.

    dino-train evaluate pictures runs/mine/last.pt --data my_bag
"""
    )


def add_evaluations(parser: ArgumentParser) -> None:
    """Add the evaluations to a parser that is a subcommand already: jsonargparse wants the upper levels first."""
    evaluations = parser.add_subcommands(required=True, dest="evaluation")
    for name, (module, purpose) in EVALUATIONS.items():
        evaluations.add_subcommand(name, module.parser(), help=purpose)


def run(options: Namespace) -> None:
    chosen = options[options.evaluation]
    if chosen.out:
        check = check_writable if options.evaluation == "pictures" else check_replaceable  # a folder, or a file
        check(chosen.out)
    EVALUATIONS[options.evaluation][0].run(chosen)
