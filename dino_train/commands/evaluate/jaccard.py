"""`dino-train evaluate jaccard`: attention masks against ground-truth objects."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate jaccard`."""
    parser = ArgumentParser(
        description="Jaccard index of attention masks against ground-truth objects. `paper` is the paper's: for each "
        "object the head that covers it best, averaged in each image, then over images."
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
        help="of a folder of images the folder of PNGs of the same names, of a bag the topic of masks",
    )
    parser.add_argument("--topic", type=str | None, help="image topic of the bag")
    parser.add_argument("--keep", type=float, default=0.6, help="share of the attention that a mask keeps")
    return parser


def run(options: Namespace) -> None:
    """`dino-train evaluate jaccard`."""
    from dino_train.evaluation.scores import Scores, show
    from dino_train.evaluation.segmentation.jaccard import KEEP_MORE, jaccard_scores
    from dino_train.evaluation.segmentation.labeled import labeled_images

    rows: list[Scores] = []
    for name, encoder in open_named_encoders(options).items():
        scores = jaccard_scores(encoder, labeled_images(options.data, options.masks, options.topic), options.keep)
        rows.append(
            {
                "encoder": name,
                "paper": scores.paper,
                "best head per object": scores.best_head_per_object,
                f"best head per object, {KEEP_MORE:.0%}": scores.best_head_per_object_80,
                "best head per image": scores.best_head,
                "united heads": scores.united_heads,
                "mean of heads": scores.mean_of_heads,
                "pictures": scores.images,
                "objects": scores.objects,
            }
        )
    show(f"Jaccard index on {options.data.name}, masks of {options.keep:.0%} of the attention", rows, options.out)
