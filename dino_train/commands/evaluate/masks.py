"""`dino-train evaluate masks`: masks of every method, on images and videos with ground truth."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Score the masks of every method, both plain (the patch grid interpolated) and as
the node makes them (refined along edges, steadied over time): overlap with the
objects, boundary F, steadiness, milliseconds per mask and, where images have
several objects, how many of them are found one by one. A bar says how long it
takes: for 300 frames two minutes or three on two CPU cores.

    dino-train evaluate masks student.onnx --data my_bag --masks /labels
"""
    )
    add_encoder_arguments(parser)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="bags, folders laid out as VOC, as DAVIS or with images/ next to instances/ or masks/, or of images",
    )
    parser.add_argument("--masks", type=str | None, help="for bags: mask topic; for a folder of images: folder of PNGs")
    parser.add_argument("--topic", type=str | None, help="image topic of bags, if they have several")
    return parser


def run(options: Namespace) -> None:
    from dino_ros.images.bags import is_bag
    from dino_ros.masks.parameters import MaskParameters
    from dino_train.evaluation.scores import Scores, show
    from dino_train.evaluation.segmentation.labeled_images import count_labeled
    from dino_train.evaluation.segmentation.mask_scores import labeled_sequences, mask_scores, methods_of, truth_scores
    from dino_train.machine.progress import counted, progress

    rows: list[Scores] = []

    def add(data: Path, encoder: str, method: str, scores: object) -> None:
        rows.append({"data": data.name, "encoder": encoder, "method": method, **vars(scores)})

    encoders = open_named_encoders(options)
    for data in options.data:
        applies = options.masks and (is_bag(data) or Path(options.masks).is_dir())
        masks = options.masks if applies else None  # a bag's mask topic does not apply to folders in the same list
        total = count_labeled(data, masks, options.topic)
        with progress(f"{data.name}, ground truth", total) as advance:
            sequences = (counted(frames, advance) for frames in labeled_sequences(data, masks, options.topic))
            add(data, "", "ground truth", truth_scores(sequences))
        for name, encoder in encoders.items():
            variants = {}
            for method in methods_of(encoder):
                variants[method] = MaskParameters(method)
                variants[f"{method}, plain"] = MaskParameters(method, refine=False, steady=0.0)
            with progress(f"{data.name}, {name}", total) as advance:
                sequences = (counted(frames, advance) for frames in labeled_sequences(data, masks, options.topic))
                all_scores = mask_scores(encoder, sequences, list(variants.values()))
            for method, scores in zip(variants, all_scores, strict=True):
                add(data, name, method, scores)
    show("Masks", rows, options.out)
