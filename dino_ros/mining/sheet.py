"""The contact sheet of frames that were found, and the file that lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.files import write_whole
from dino_ros.images.overlay import OUTLINE
from dino_ros.mining.search import Box
from dino_ros.mining.vectors import Vectors

COLUMNS = 6
MOST = 48
"""Frames on a sheet."""
TILE = (240, 180)
"""Width and height of a frame on the sheet, in pixels."""
LABEL = 20
"""Height of a line of text, in pixels."""
GAP = 6
BACKGROUND, TEXT = (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Entry:
    """A frame on the sheet and in the list."""

    recording: int
    """Number of its recording."""
    index: int
    """Its place among the recording's vectors."""
    says: str
    """Below its picture, after when it was."""
    values: Mapping[str, object]
    """In the list, beside which frame it is."""
    box: Box | None = None
    """Drawn, in pixels of the frame."""
    patches: NDArray[np.bool_] | None = None
    """[h, w]: patches that are outlined."""


def write_results(
    out: Path, heading: str, recordings: Sequence[Vectors], entries: Sequence[Entry], description: Mapping[str, object]
) -> None:
    """Write frames.json, with the description and every entry, and contact_sheet.png, with the first 48, into `out`."""
    frames = [{**_frame(recordings, entry), **entry.values} for entry in entries]
    content = {**description, "recordings": [str(one.path) for one in recordings], "frames": frames}
    write_whole(out / "frames.json", (json.dumps(content, indent=1) + "\n").encode())
    tiles = [_tile(recordings, entry) for entry in entries[:MOST]]
    tiles += [np.full_like(tiles[0], BACKGROUND)] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
    title = np.full((LABEL + 2 * GAP, rows[0].shape[1], 3), BACKGROUND, np.uint8)
    _write(title, heading, GAP, LABEL, 0.5)
    sheet = np.ascontiguousarray(np.vstack([title, *rows])[:, :, ::-1])
    write_whole(out / "contact_sheet.png", cv2.imencode(".png", sheet)[1].tobytes())


def _frame(recordings: Sequence[Vectors], entry: Entry) -> dict[str, Any]:
    frame = recordings[entry.recording].frames[entry.index]
    return {
        "recording": entry.recording,
        "frame": frame.number,
        "stamp": frame.stamp,
        "seconds": round(frame.seconds, 3),
    }


def _tile(recordings: Sequence[Vectors], entry: Entry) -> NDArray[np.uint8]:
    """A frame with what is marked in it, above its label."""
    recording = recordings[entry.recording]
    frame = recording.frames[entry.index]
    scale = min(TILE[0] / frame.width, TILE[1] / frame.height)
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    picture = cv2.resize(recording.thumbnail(entry.index), (width, height), interpolation=cv2.INTER_AREA)
    if entry.patches is not None:
        marked = cv2.resize(entry.patches.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(marked, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, OUTLINE)
    if entry.box is not None:
        left, top, across, down = (round(side * scale) for side in entry.box)
        cv2.rectangle(picture, (left, top), (left + across - 1, top + down - 1), OUTLINE)
    lines = 2 if len(recordings) > 1 else 1
    tile = np.full((TILE[1] + lines * LABEL, TILE[0] + GAP, 3), BACKGROUND, np.uint8)
    y, x = (TILE[1] - height) // 2, (TILE[0] - width) // 2
    tile[y : y + height, x : x + width] = picture
    _write(tile, f"{frame.seconds:.2f} s, {entry.says}", 4, TILE[1] + 14, 0.4)
    if lines > 1:
        _write(tile, recording.name, 4, TILE[1] + LABEL + 10, 0.4)
    return tile


def _write(image: NDArray[np.uint8], text: str, x: int, y: int, size: float) -> None:
    """Text in ASCII, which is all that OpenCV draws."""
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, TEXT, 1, cv2.LINE_AA)
