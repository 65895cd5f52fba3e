"""The contact sheet: frames that training would see, and near-duplicates that were left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_ros.images.sampling import evenly_spaced
from dino_train.data.bags import BagFrames
from dino_train.data.frames import Frames
from dino_train.data.selection import SelectedFrames
from dino_train.data.video import VideoFrames

log = logging.getLogger(__name__)

COLUMNS = 8
ROWS = 2
"""Rows of kept frames for each source."""
MAX_SOURCES = 20
TILE = (200, 150)
"""Width and height of a frame on the sheet, pixels."""
GAP = 6
BACKGROUND, TEXT, KEPT, DROPPED = (24, 24, 24), (235, 235, 235), (150, 220, 150), (245, 150, 110)

Image = NDArray[np.uint8]


def write_contact_sheet(sources: Sequence[Frames], out: Path) -> None:
    """Write a PNG of evenly spaced frames of each source, and of near-duplicates next to the frame that was kept.

    Shows at most 20 sources. Raises UserError if `out` does not end in .png or cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} cannot be a contact sheet, which is a PNG: give a name that ends in .png.")
    shown = [sources[number] for number in evenly_spaced(len(sources), MAX_SOURCES)]
    if len(shown) < len(sources):
        log.info("the sheet shows %d of %d sources", len(shown), len(sources))
    strips = np.vstack([strip for source in shown for strip in _strips(source)])
    sheet = cv2.copyMakeBorder(strips, 0, GAP, 2 * GAP, GAP, cv2.BORDER_CONSTANT, value=BACKGROUND)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    try:
        write_whole(out, encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"The contact sheet {out} cannot be written ({error.strerror}): choose another --out."
        ) from error


def _strips(source: Frames) -> list[Image]:
    """Rows of the sheet for one source."""
    numbers = evenly_spaced(len(source), COLUMNS * ROWS)
    if not isinstance(source, SelectedFrames):
        times = source.times if isinstance(source, BagFrames | VideoFrames) else None
        labels = [_seconds(times, number) if times is not None else f"number {number}" for number in numbers]
        tiles = [_tile(source, number, label, TEXT) for number, label in zip(numbers, labels, strict=True)]
        return [_heading(f"{source.name}: {len(source)} frames, all kept"), *_rows(tiles)]
    recording, times = source.recording, source.recording.times
    kept = source.numbers[numbers].tolist()
    tiles = [_tile(recording, number, _seconds(times, number), KEPT) for number in kept]
    strips = [_heading(f"{source.name}: kept {len(source)} of {len(recording)} frames"), *_rows(tiles)]
    pairs = source.dropped(COLUMNS // 2)
    if pairs:
        strips.append(_heading(f"dropped {source.near_duplicates} near-duplicates, some shown next to the frame kept"))
        tiles = []
        for number, kept_number, difference in pairs:
            label = f"{_seconds(times, number)}, differs by {difference}"
            tiles += [
                _tile(recording, kept_number, f"{_seconds(times, kept_number)}, kept", KEPT),
                _tile(recording, number, label, DROPPED),
            ]
        strips += _rows(tiles)
    return strips


def _seconds(times: NDArray[np.int64], number: int) -> str:
    return f"{(times[number] - times[0]) / 1e9:.2f} s"


def _tile(frames: Frames, number: int, label: str, color: tuple[int, int, int]) -> Image:
    """One frame, scaled to fit without distortion, above its label."""
    tile = np.full((TILE[1] + 22, TILE[0] + GAP, 3), BACKGROUND, np.uint8)
    try:
        rgb = frames[number]
    except UserError:
        label = "does not decode"
    else:
        scale = min(TILE[0] / rgb.shape[1], TILE[1] / rgb.shape[0])
        width, height = (max(1, round(side * scale)) for side in (rgb.shape[1], rgb.shape[0]))
        top, left = (TILE[1] - height) // 2, (TILE[0] - width) // 2
        tile[top : top + height, left : left + width] = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, label, (2, TILE[1] + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return tile


def _rows(tiles: list[Image]) -> list[Image]:
    blank = np.full_like(tiles[0], BACKGROUND)
    filled = tiles + [blank] * (-len(tiles) % COLUMNS)
    return [np.hstack(filled[start : start + COLUMNS]) for start in range(0, len(filled), COLUMNS)]


def _heading(text: str) -> Image:
    strip = np.full((34, COLUMNS * (TILE[0] + GAP), 3), BACKGROUND, np.uint8)
    cv2.putText(strip, text, (2, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, TEXT, 1, cv2.LINE_AA)
    return strip
