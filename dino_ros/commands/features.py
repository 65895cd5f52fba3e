"""`dino-ros features`: features of recordings in a file that policies are trained from."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dino_ros.commands.export_options import add_mask_options, add_recording_options, mask_parameters

DESCRIPTION = """\
Write what a student sees in recordings, features, embeddings and the stamps of
the frames, into one Zarr or Parquet file to train a policy from. The first line
says how long it takes: about 20 frames a second on two CPU cores. The same
command goes on where an interrupted one stopped.

    dino-ros features drive.mcap --topic /front/image_raw --out drive.zarr
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_recording_options(parser, rate=0.0)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="what to write: NAME.zarr, which is read in slices, or NAME.parquet, for tables",
    )
    parser.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float16",
        help="float16 takes half the disk and rounds by less than the engines differ; float32 for exact comparisons",
    )
    parser.add_argument(
        "--objects",
        action="store_true",
        help="also write the masks, as numbered objects, for policies that are told what to look at",
    )
    add_mask_options(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.exports.features import export_features
    from dino_ros.exports.recordings import Recordings
    from dino_ros.perception.perceiver import Perceiver

    recordings = Recordings(options.paths, options.topic, options.rate)
    say = partial(print, flush=True)
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    mask = mask_parameters(options) if options.objects else None
    written = export_features(perceiver, recordings, options.out, mask, options.dtype, say)
    print(f"{written} frames in {options.out}.")
    return 0
