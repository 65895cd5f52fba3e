"""`dino-ros annotate`: masks of recordings as labels for a detector."""

from __future__ import annotations

import argparse
from pathlib import Path

from dino_ros.commands.export_options import add_mask_options, add_recording_options, mask_parameters


def add_options(parser: argparse.ArgumentParser) -> None:
    add_recording_options(parser, rate=2.0)
    parser.add_argument("--out", type=Path, required=True, help="folder for images, labels and contact_sheet.png")
    parser.add_argument(
        "--format",
        choices=["coco", "coco_polygons", "yolo"],
        default="coco",
        help="coco: annotations.json with exact masks, as run lengths; coco_polygons: with outlines, holes filled, for "
        "readers that refuse run lengths (detectron2 unless INPUT.MASK_FORMAT is bitmask, many labeling tools); yolo: "
        "a text file per image with outlines, and data.yaml",
    )
    parser.add_argument(
        "--image_format", choices=["jpg", "png"], default="jpg", help="png keeps every pixel, at five times the size"
    )
    add_mask_options(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.exports.annotate import annotate
    from dino_ros.exports.recordings import Recordings
    from dino_ros.perception.perceiver import Perceiver

    recordings = Recordings(options.paths, options.topic, options.rate)
    perceiver = Perceiver.load(options.model, options.backend)
    written = annotate(
        perceiver,
        recordings,
        options.out,
        mask_parameters(options),
        options.format,
        options.image_format,
        lambda line: print(line, flush=True),
    )
    print(f"{written} images in {options.out}. Look at {options.out / 'contact_sheet.png'} before you train on them.")
    return 0
