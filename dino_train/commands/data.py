"""`dino-train data`: show what training would see."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.files import check_replaceable
from dino_train.commands.data_options import add_data_arguments
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Show what training would see: a table of the sources, and a contact sheet of
frames that are kept and left out. Run it first on every new recording. It
decodes each frame once, some hundred a second, and remembers what it found.

    dino-train data my_bag --out sheet.png
"""
    )
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"), help="the contact sheet, a PNG file")
    return parser


def run(options: Namespace) -> None:
    from dino_train.data.selection import SelectionParameters
    from dino_train.data.survey import survey

    check_replaceable(options.out)
    survey(
        options.data, options.topic, options.weight, SelectionParameters(options.near_duplicate_threshold), options.out
    )
    print(f"Wrote {options.out}.")
