"""`dino-train select`: the frames of recordings that differ most, to label or to train on."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.commands.mining_options import RATE, RATE_HELP, TOPIC_HELP
from dino_ros.commands.student_options import STUDENT
from dino_ros.student import DEFAULT_STUDENT
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Pick the frames of recordings that differ most from each other, as a student
sees them: those to label, or to train on where not all fit. Each next frame is
the one least like all before it (k-center greedy), so the first n are a choice
of n. What a student sees in a recording is computed once and kept.

    dino-train select monday.mcap tuesday.mcap --count 500 --out selected
"""
    )
    parser.add_argument("data", nargs="+", help="bags, videos or folders of images")
    parser.add_argument("--count", type=int, default=500, help="how many frames to pick")
    parser.add_argument("--topic", type=str | None, help=TOPIC_HELP)
    parser.add_argument("--rate", type=float, default=RATE, help=RATE_HELP)
    parser.add_argument("--model", type=str, default=DEFAULT_STUDENT, help=STUDENT)
    parser.add_argument("--backend", type=str, default="auto", help="engine that runs it; auto takes the fastest here")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("selected"),
        help="folder to write images/, frames.json and contact_sheet.png into",
    )
    return parser


def run(options: Namespace) -> None:
    from functools import partial

    from dino_ros.mining.diverse import write_diverse
    from dino_ros.perception.perceiver import Perceiver

    say = partial(print, flush=True)
    perceiver = Perceiver.load(options.model, options.backend, report=say)
    paths = [Path(path) for path in options.data]
    written, frames, radius = write_diverse(
        perceiver, paths, options.topic, options.rate, options.count, options.out, say
    )
    print(
        f"{written} of {frames} frames in {options.out / 'images'}; no other is farther than {radius:.2f} from the "
        f"nearest of them (0 to 2). Look at {options.out / 'contact_sheet.png'}."
    )
