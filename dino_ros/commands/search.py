"""`dino-ros search`: frames of recordings that hold something like a crop."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dino_ros.commands.mining_options import add_mining_options
from dino_ros.commands.teach import numbers

DESCRIPTION = """\
Find frames of recordings that hold something like a crop. What a student sees
in a recording is computed once, about 20 frames a second on two CPU cores, and
kept; the next search takes seconds. A box in a whole frame finds more than a
crop: the student then sees the thing at its size, among what is around it.

    dino-ros search drive.mcap --like crop.png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, help="bags, videos or folders of images")
    parser.add_argument("--like", type=Path, required=True, metavar="PICTURE", help="picture of what to look for")
    parser.add_argument(
        "--box",
        type=numbers("X,Y,W,H"),
        metavar="X,Y,W,H",
        help="box around it in the picture, in pixels, where the picture is a whole frame and not a crop",
    )
    parser.add_argument("--count", type=int, default=48, help="most frames to list, the most alike first")
    parser.add_argument(
        "--out", type=Path, default=Path("found"), help="folder to write frames.json and contact_sheet.png into"
    )
    add_mining_options(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.errors import UserError
    from dino_ros.exports.perceive import student_settings
    from dino_ros.files import check_writable
    from dino_ros.mining.search import look_in_box, looks_of_crop, search
    from dino_ros.mining.sheet import Entry, write_results
    from dino_ros.mining.vectors import vectors_of
    from dino_ros.perception.perceiver import Perceiver
    from dino_ros.taught.pictures import read_picture

    if options.count < 1:
        raise UserError(f"--count is {options.count}: give how many frames to list, 1 or more.")
    check_writable(options.out)
    picture = read_picture(options.like)
    say = partial(print, flush=True)
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    looks = look_in_box(perceiver, picture, options.box) if options.box else looks_of_crop(perceiver, picture)
    recordings = vectors_of(perceiver, options.paths, options.topic, options.rate, say)
    entries = [
        Entry(number, index, f"{hit.likeness:.2f}", {"likeness": round(hit.likeness, 4), "box": hit.box}, hit.box)
        for number, hits in enumerate(search(recordings, looks))
        for index, hit in enumerate(hits)
    ]
    entries.sort(key=lambda entry: -float(str(entry.values["likeness"])))
    entries = entries[: options.count]
    description = {
        **student_settings(perceiver),
        "like": str(options.like),
        "like_box": options.box,
        "rate": options.rate,
    }
    frames = sum(map(len, recordings))
    heading = f"The {len(entries)} of {frames} frames most like {options.like.name}, with how alike, -1 to 1"
    write_results(options.out, heading, recordings, entries, description)
    print(f"{len(entries)} of {frames} frames in {options.out}: look at {options.out / 'contact_sheet.png'}.")
    return 0
