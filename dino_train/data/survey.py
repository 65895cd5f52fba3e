"""What training would see, shown before you train: a table and a contact sheet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dino_ros.errors import UserError
from dino_ros.images.sampling import evenly_spaced
from dino_train.data.bags import BagFrames
from dino_train.data.contact_sheet import write_contact_sheet
from dino_train.data.frames import BAD_SHARE, Frames, MixedFrames, open_frames, too_many_bad
from dino_train.data.images import FolderFrames, TarFrames
from dino_train.data.selection import SelectedFrames, SelectionParameters
from dino_train.data.video import VideoFrames

log = logging.getLogger(__name__)

NUMBERS = ("frames", "kept", "duplicates", "broken", "seconds", "share")
"""Headings of the table's columns of numbers, short enough for 80 characters: "duplicates" are near-duplicates,
"broken" frames do not decode, "share" is that of an epoch's draws."""
TRIED = 200
"""Images of a folder or shard that are decoded to count the broken ones; of a bag or video it is every frame."""


def survey(
    paths: Sequence[str | Path],
    topics: Sequence[str],
    weights: Mapping[str, float],
    selection: SelectionParameters,
    out: Path,
) -> None:
    """Print a table of the sources and what was left out; write a contact sheet to `out`, a PNG file.

    The arguments are those of `open_frames`. Raises UserError as it does, if most images cannot be read, and if the
    sheet cannot be written.
    """
    frames = open_frames(paths, topics, weights, selection)
    broken = [broken_images(source) for source in frames.sources]
    console = Console()
    console.print(_table(frames, [cell for cell, _ in broken]))
    for bag, topic, reason in frames.left_out:
        console.print(f"left out: {topic} of {bag}: {reason}", soft_wrap=True, markup=False, highlight=False)
    bad = sum(share * len(source) for (_, share), source in zip(broken, frames.sources, strict=True))
    if bad > BAD_SHARE * len(frames):
        raise too_many_bad(frames)
    write_contact_sheet(frames.sources, out)


def broken_images(source: Frames) -> tuple[str, float]:
    """The cell on broken images of a source, and which share of those that training would draw is broken.

    A warning names each.
    """
    if isinstance(source, SelectedFrames):  # which has left them out
        return str(source.undecodable), 0.0
    numbers = evenly_spaced(len(source), TRIED)
    broken = 0
    for number in numbers:
        try:
            source[number]
        except UserError as error:
            log.warning("broken: %s", error)
            broken += 1
    return str(broken) if len(numbers) == len(source) else f"{broken} of {len(numbers)}", broken / len(numbers)


def _table(frames: MixedFrames, broken: Sequence[str]) -> Table:
    table = Table(Column("source", overflow="fold"), Column("image", overflow="fold"), padding=(0, 1, 0, 0))
    for heading in NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    drawn = [weight * len(source) for source, weight in zip(frames.sources, frames.weights, strict=True)]
    for source, weight, share, cell in zip(frames.sources, frames.weights, drawn, broken, strict=True):
        times = "" if weight == 1 else f" (x{weight:g})"
        table.add_row(*map(escape, _cells(source, cell)), f"{share / sum(drawn):.1%}{times}")
    return table


def _cells(source: Frames, broken: str) -> list[str]:
    """A source's row of the table, up to its duration."""
    original = source.recording if isinstance(source, SelectedFrames) else source
    encoding = original.encoding if isinstance(original, BagFrames | VideoFrames | FolderFrames | TarFrames) else ""
    words = [part.split()[0] for part in encoding.split(";") if part.strip()]
    encoding = words[-1] if words else ""  # "jpeg" of "mono8; jpeg compressed mono8"
    seconds = dropped = "-"
    if isinstance(original, BagFrames | VideoFrames):
        seconds = f"{(original.times[-1] - original.times[0]) / 1e9:.1f}"
    if isinstance(source, SelectedFrames):
        dropped = str(source.near_duplicates)
    image = f"{_size(source)} {encoding}".strip()
    return [source.name, image, str(len(original)), str(len(source)), dropped, broken, seconds]


def _size(source: Frames) -> str:
    """Width and height of a source's first image, "-" if it does not decode."""
    try:
        height, width, _ = source[0].shape
    except UserError:
        return "-"
    return f"{width}x{height}"
