"""`dino-train evaluate jaccard`: attention masks against ground-truth objects."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Jaccard index of attention masks against ground-truth objects. `paper` is the
paper's score: each object against the attention head that covers it best,
averaged within each image, then over images. Takes one look at each image:
minutes for a few hundred. For the node's own masks take `masks`.

    dino-train evaluate jaccard vit.pth --data VOCdevkit/VOC2012
"""
    )
    add_encoder_arguments(parser)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="PASCAL VOC (VOCdevkit/VOC2012), DAVIS, a folder with images/ and instances/ or masks/, a folder of "
        "images, or a bag",
    )
    parser.add_argument(
        "--masks",
        type=str | None,
        help="for a folder of images: folder of mask PNGs with the same names; for a bag: mask topic",
    )
    parser.add_argument("--topic", type=str | None, help="image topic of the bag, if it has several")
    parser.add_argument(
        "--attention_mass",
        type=float,
        default=0.6,
        help="share of the attention that a mask holds, above 0 to 1: the node's parameter of that name, to tune it",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.scores import Scores, show
    from dino_train.evaluation.segmentation.jaccard import LARGER_MASS, jaccard_scores
    from dino_train.evaluation.segmentation.labeled_images import count_labeled, labeled_images
    from dino_train.machine.progress import watched

    rows: list[Scores] = []
    total = count_labeled(options.data, options.masks, options.topic)
    for name, encoder in open_named_encoders(options).items():
        labeled = labeled_images(options.data, options.masks, options.topic)
        scores = jaccard_scores(encoder, watched(labeled, name, total), options.attention_mass)
        rows.append(
            {
                "encoder": name,
                "paper": scores.paper,
                "best head per object": scores.best_head_per_object,
                f"best head per object, {LARGER_MASS:.0%}": scores.best_head_per_object_80,
                "best head per image": scores.best_head,
                "united heads": scores.united_heads,
                "mean of heads": scores.mean_of_heads,
                "images": scores.images,
                "objects": scores.objects,
            }
        )
    title = f"Jaccard index on {options.data.name}, masks of {options.attention_mass:.0%} of the attention"
    show(title, rows, options.out)
