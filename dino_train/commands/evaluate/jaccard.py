"""`dino-train evaluate jaccard`: attention masks against ground-truth objects."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate jaccard`."""
    parser = ArgumentParser(description="Jaccard index of attention masks against ground-truth objects.")
    add_encoder_arguments(parser)
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures, or a bag")
    parser.add_argument("--masks", type=str, required=True, help="folder of PNGs of the same names, or the bag's topic")
    parser.add_argument("--topic", type=str | None, help="image topic of the bag")
    parser.add_argument("--keep", type=float, default=0.6, help="share of the attention that a mask keeps")
    return parser


def run(options: Namespace) -> None:
    """`dino-train evaluate jaccard`."""
    from dino_ros.sources import is_bag
    from dino_train.evaluation.jaccard import jaccard_scores, labelled_bag, labelled_folder
    from dino_train.evaluation.scores import Scores, show

    rows: list[Scores] = []
    for name, encoder in open_named_encoders(options).items():
        if is_bag(options.data):
            labelled = labelled_bag(options.data, options.topic, options.masks)
        else:
            labelled = labelled_folder(options.data, Path(options.masks))
        scores = jaccard_scores(encoder, labelled, options.keep)
        rows.append(
            {
                "encoder": name,
                "per object, best head": scores.best_head_per_object,
                "best head": scores.best_head,
                "mean of heads": scores.mean_of_heads,
                "pictures": scores.pictures,
                "objects": scores.objects,
            }
        )
    show(f"Jaccard index on {options.data.name}", rows, options.out)
