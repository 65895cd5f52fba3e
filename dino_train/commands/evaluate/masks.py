"""`dino-train evaluate masks`: every way to make masks, on images and videos with ground truth."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders


def parser() -> ArgumentParser:
    """Options of `dino-train evaluate masks`."""
    parser = ArgumentParser(
        description="Score masks of every method, plain (the patch grid interpolated) and as the node makes them "
        "(refined along edges, steady in time): overlap with the objects, boundary F, steadiness, and milliseconds to "
        "make one."
    )
    add_encoder_arguments(parser)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="bags, folders as VOC, as DAVIS or with images/ beside instances/ or masks/, or a folder of images",
    )
    parser.add_argument("--masks", type=str | None, help="of a bag the topic of masks, of images the folder of PNGs")
    parser.add_argument("--topic", type=str | None, help="image topic of a bag")
    return parser


def run(options: Namespace) -> None:
    """`dino-train evaluate masks`."""
    from dino_ros.images.sources import is_bag
    from dino_ros.masks.parameters import MaskParameters
    from dino_train.evaluation.scores import Scores, show
    from dino_train.evaluation.segmentation.masks import labeled_sequences, mask_scores, methods_of, truth_scores

    rows: list[Scores] = []

    def add(data: Path, encoder: str, method: str, found: object) -> None:
        rows.append({"data": data.name, "encoder": encoder, "method": method, **vars(found)})

    encoders = open_named_encoders(options)
    for data in options.data:
        named = options.masks and (is_bag(data) or Path(options.masks).is_dir())
        masks = options.masks if named else None  # a topic says nothing of folders that are scored beside the bag
        add(data, "", "ground truth", truth_scores(labeled_sequences(data, masks, options.topic)))
        for name, encoder in encoders.items():
            variants = {}
            for method in methods_of(encoder):
                variants[method] = MaskParameters(method)
                variants[f"{method}, plain"] = MaskParameters(method, refine=False, steady=0.0)
            sequences = labeled_sequences(data, masks, options.topic)
            for method, found in zip(variants, mask_scores(encoder, sequences, list(variants.values())), strict=True):
                add(data, name, method, found)
    show("Masks", rows, options.out)
