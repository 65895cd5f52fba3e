"""`dino-ros annotate`: masks of recordings as labels for a detector."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dino_ros.commands.export_options import add_mask_options, add_recording_options, mask_parameters

DESCRIPTION = """\
Write the images of recordings and their masks as labels, COCO's or YOLO's, and
a contact_sheet.png to look at before you train a detector on them. The first
line says how long it takes: about 10 images a second on two CPU cores. The same
command goes on where an interrupted one stopped.

    dino-ros annotate drive.mcap --topic /front/image_raw --out labels
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_recording_options(parser, rate=2.0)
    parser.add_argument("--out", type=Path, required=True, help="folder for images, labels and contact_sheet.png")
    parser.add_argument(
        "--format",
        choices=["coco", "coco_polygons", "yolo"],
        default="coco",
        help="coco: annotations.json with exact masks, as run lengths; coco_polygons: with outlines, holes filled, for "
        "readers that refuse run lengths, as detectron2 does unless INPUT.MASK_FORMAT is bitmask; yolo: a text file "
        "per image with outlines, and data.yaml, as Ultralytics trains from",
    )
    parser.add_argument(
        "--image_format",
        choices=["jpg", "png"],
        default="jpg",
        help="png keeps every pixel, at five times the size: for thin or low-contrast objects",
    )
    add_mask_options(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.exports.annotate import annotate
    from dino_ros.exports.recordings import Recordings
    from dino_ros.perception.perceiver import Perceiver

    recordings = Recordings(options.paths, options.topic, options.rate)
    say = partial(print, flush=True)
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    written = annotate(
        perceiver,
        recordings,
        options.out,
        mask_parameters(options),
        options.format,
        options.image_format,
        say,
    )
    print(f"{written} images in {options.out}. Look at {options.out / 'contact_sheet.png'} before you train on them.")
    return 0
