"""`dino-ros novelty`: what a recording shows that others never did."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dino_ros.commands.mining_options import add_mining_options

DESCRIPTION = """\
Mark what recordings show that known ones never did: frames whose patches are
farther from all known ones than frames of the known recordings are from each
other. What a student sees in a recording is computed once, about 20 frames a
second on two CPU cores, and kept.

    dino-ros novelty tuesday.mcap --known monday.mcap
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, help="bags, videos or folders of images to look through")
    parser.add_argument(
        "--known", type=Path, nargs="+", required=True, metavar="PATH", help="recordings of what is known"
    )
    parser.add_argument(
        "--false_alarms",
        type=float,
        default=0.01,
        help="share of frames with nothing new that may be taken for novel: raise it to miss less",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("novel"), help="folder to write frames.json and contact_sheet.png into"
    )
    add_mining_options(parser)


def run(options: argparse.Namespace) -> int:
    from dino_ros.errors import UserError
    from dino_ros.exports.perceive import student_settings
    from dino_ros.files import check_writable
    from dino_ros.mining.novelty import learn
    from dino_ros.mining.sheet import MOST, Entry, write_results
    from dino_ros.mining.vectors import vectors_of
    from dino_ros.perception.perceiver import Perceiver

    if not 0 < options.false_alarms < 1:
        raise UserError(f"--false_alarms is {options.false_alarms:g}: give a share between 0 and 1.")
    check_writable(options.out)
    say = partial(print, flush=True)
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    look = partial(vectors_of, perceiver, topic=options.topic, rate=options.rate, report=say)
    seen = look(options.known)
    recordings = look(options.paths)
    familiar = learn(seen, options.false_alarms)
    calibration = familiar.calibration
    entries = []
    for number, recording in enumerate(recordings):
        for index, tokens in enumerate(recording.tokens()):
            new = familiar.novelty(tokens)
            values = {
                "distance": round(new.distance, 4),
                "false_alarm": round(calibration.chance(new.distance), 4),
                "novel": new.distance > calibration.threshold,
            }
            patches = new.patches > calibration.threshold
            entries.append(Entry(number, index, f"{new.distance:.2f}", values, patches=patches))
    entries.sort(key=lambda entry: -float(str(entry.values["distance"])))
    novel = sum(bool(entry.values["novel"]) for entry in entries)
    description = {
        **student_settings(perceiver),
        "known": [str(one.path) for one in seen],
        "rate": options.rate,
        "threshold": round(calibration.threshold, 4),
        "held_out": len(calibration.held_out),
        "false_alarms": max(options.false_alarms, round(1 / (1 + len(calibration.held_out)), 4)),
        "known_tokens": len(familiar.known),
        "known_radius": round(familiar.known.radius, 4),
    }
    heading = (
        f"{novel} of {len(entries)} frames are novel, farther than {calibration.threshold:.2f}; the {MOST} farthest, "
        "novel patches outlined"
    )
    write_results(options.out, heading, recordings, entries, description)
    print(
        f"{novel} of {len(entries)} frames are novel (distance above {calibration.threshold:.3f}, by "
        f"{len(calibration.held_out)} held-out frames; up to {description['false_alarms']:.1%} false alarms): look at "
        f"{options.out / 'contact_sheet.png'}."
    )
    return 0
