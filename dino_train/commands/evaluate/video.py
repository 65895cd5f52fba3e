"""`dino-train evaluate video`: objects of the first frame followed through videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Propagate the objects of each video's first frame through it by the similarity
of patch features, as the paper does for DAVIS-2017, and score the masks: region
similarity J and boundary accuracy F. Nothing is trained: it measures how well
patch features track. A bar says how long it takes: seconds a frame on a CPU.
With --method taught the node's finder of taught objects takes its place.

    dino-train evaluate video student.onnx --data DAVIS --save tracked/
"""
    )
    add_encoder_arguments(parser)
    parser.add_argument(
        "--data", type=Path, required=True, help="DAVIS, or a folder with images/<sequence>/ and masks/<sequence>/"
    )
    parser.add_argument(
        "--method",
        type=Literal["label_propagation", "taught"],
        default="label_propagation",
        help="label_propagation to compare features, by the paper's protocol; taught for what to expect of the node "
        "that is shown the objects of the first frame: one look at each, and no frame is looked at twice",
    )
    parser.add_argument(
        "--save",
        type=Path | None,
        help="folder for the predicted masks, as PNGs, and a strip of each video, to look at where it fails",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.scores import Scores, show
    from dino_train.evaluation.segmentation.mask_pictures import save_masks
    from dino_train.evaluation.segmentation.video_folder import open_video_folder
    from dino_train.evaluation.segmentation.video_segmentation import mean_scores, score_objects, segment_sequence
    from dino_train.machine.progress import counted, progress

    sequences = open_video_folder(options.data)
    total = sum(len(sequence.files) for sequence in sequences)
    rows: list[Scores] = []
    sequence_rows: list[Scores] = []
    object_rows: list[Scores] = []
    for name, encoder in open_named_encoders(options).items():
        all_objects = []
        with progress(name, total) as advance:
            for sequence in sequences:
                frames = segment_sequence(encoder, sequence, options.method)
                if options.save:
                    folder = options.save / re.sub(r"[^\w.-]+", "_", name) / sequence.name
                    frames = save_masks(frames, len(sequence.files), folder)
                objects = score_objects(counted(frames, advance))
                all_objects += objects
                names = {"encoder": name, "sequence": sequence.name}
                sequence_rows.append({**names, **mean_scores(objects)})
                object_rows += [{**names, "object": one.number, **mean_scores([one])} for one in objects]
        rows.append({"encoder": name, **mean_scores(all_objects), "objects": len(all_objects)})
    title = f"Video object segmentation on {options.data.name}: {len(sequences)} sequences"
    show(title, rows, options.out, {"sequences": sequence_rows, "objects": object_rows})
