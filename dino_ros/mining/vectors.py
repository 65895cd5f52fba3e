"""What a student sees in the frames of a recording, computed once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.exports.journal import Position
from dino_ros.exports.perceive import announce, perceive, student_settings
from dino_ros.exports.recordings import Recordings
from dino_ros.files import cache_folder, remove_leftovers, replacing, write_whole
from dino_ros.images.encodings import resize
from dino_ros.images.folders import files_below
from dino_ros.images.sources import BagSource
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.progress import Progress
from dino_ros.taught.looks import unit

VERSION = 1
"""Of the files' form: raising it discards what was kept before."""
PART = 32
"""Frames in a file: what is lost, at most, when a run is killed, and what is in memory at once."""
THUMBNAIL = 320
"""Pixels on the long side of the small image that is kept of a frame, to show it without decoding the recording."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class SeenFrame:
    """A frame of a recording."""

    number: int
    """Its number in the recording, from 0."""
    stamp: int
    """Nanoseconds, as `Frame.stamp`."""
    seconds: float
    """Since the recording's first frame."""
    height: int
    """Of the image, in pixels."""
    width: int
    """Of the image, in pixels."""


class Vectors:
    """Embeddings and patch tokens of a recording's frames, and a small image of each.

    Embeddings are held in memory, 1.5 KB a frame for a ViT-S; patch tokens are read in order from the files each time.
    """

    def __init__(self, path: Path, name: str, folder: Path) -> None:
        """`path` is the recording's, `name` says what it is, `folder` holds its files, complete."""
        self.path = path
        self.name = name
        self._parts = _parts(folder)
        frames: list[SeenFrame] = []
        embeddings = []
        for file in self._parts:
            with np.load(file) as part:
                embeddings.append(part["embeddings"])
                rows = zip(*(part[key].tolist() for key in ("numbers", "stamps", "seconds", "sizes")), strict=True)
            frames += [SeenFrame(number, stamp, seconds, *size) for number, stamp, seconds, size in rows]
        if not frames:
            raise UserError(f"No frame of {path} decodes: see the warnings above.")
        self.frames = frames
        self.embeddings: NDArray[np.float32] = np.concatenate(embeddings)
        """[N, C], unit length."""

    def __len__(self) -> int:
        return len(self.frames)

    def tokens(self) -> Iterator[NDArray[np.float32]]:
        """The patch tokens [h, w, C] of each frame, unit length, stored in 16 bits."""
        for file in self._parts:
            with np.load(file) as part:
                yield from part["tokens"].astype(np.float32)

    def thumbnail(self, index: int) -> NDArray[np.uint8]:
        """The small image of a frame, RGB [H, W, 3]; `index` counts the frames here."""
        with np.load(self._parts[index // PART]) as part:
            ends = part["thumbnail_ends"].tolist()
            row = index % PART
            encoded = part["thumbnails"][ends[row - 1] if row else 0 : ends[row]]
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(bgr[:, :, ::-1])  # type: ignore[index]


def vectors_of(
    perceiver: Perceiver, paths: Sequence[Path], topic: str | None, rate: float, report: Report
) -> list[Vectors]:
    """The vectors of recordings, at most `rate` frames a second (0: all), from the cache where it has them.

    What is missing is computed, with a line about how long it takes, and goes on where an interrupted call stopped.
    Vectors of a recording that has changed are made again, damaged ones too. Raises UserError as `Recordings` does, and
    if no frame of one decodes; OSError, naming the file, if the cache cannot be written.
    """
    Recordings(paths, topic, rate)  # which says what is wrong with any of them before the first takes its time
    return [_vectors_of(perceiver, path, topic, rate, report) for path in paths]


def _vectors_of(perceiver: Perceiver, path: Path, topic: str | None, rate: float, report: Report) -> Vectors:
    recordings = Recordings([path], topic, rate)
    source = recordings.sources[0]
    identity = {
        "recording": recordings.paths[0],
        "topic": source.topic if isinstance(source, BagSource) else "",
        "rate": rate,
        "student_sha256": student_settings(perceiver)["student_sha256"],
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    folder = cache_folder("vectors") / f"{recordings.names[0][:80]}-{digest[:16]}"
    state = json.loads(json.dumps({**identity, "version": VERSION, "files": _states(Path(recordings.paths[0]))}))
    kept = _read_state(folder)
    if kept.get("of") != state:
        shutil.rmtree(folder, ignore_errors=True)
        _write_state(folder, state, None)
    sound = _sound_parts(folder)
    if kept.get("of") != state or kept.get("parts") != sound:
        _compute(perceiver, recordings, folder, sound, report)
        _write_state(folder, state, len(_parts(folder)))
    return Vectors(path, source.name, folder)


def _compute(perceiver: Perceiver, recordings: Recordings, folder: Path, sound: int, report: Report) -> None:
    """Write the parts of a recording's vectors after the first `sound` ones."""
    remove_leftovers(folder)
    position = Position()
    if sound:
        with np.load(_part(folder, sound - 1)) as part:
            position.tried, position.written = int(part["tried"]), sound * PART
        report(f"Going on after {position.written} frames.")
    request = perceiver.request(["features", "embedding"])
    announce(perceiver, request, recordings, folder, report)
    progress = Progress(recordings.frames, report)
    first = next(islice(recordings.sources[0], 1), None)
    started = first.time if first else 0
    rows: list[dict[str, Any]] = []
    for chosen, rgb, perception in perceive(perceiver, request, recordings, position):
        assert perception.features is not None
        assert perception.embedding is not None
        rows.append(
            {
                "numbers": chosen.number,
                "stamps": chosen.frame.stamp,
                "seconds": (chosen.frame.time - started) / 1e9,
                "sizes": rgb.shape[:2],
                "embeddings": unit(perception.embedding),
                "tokens": unit(perception.features).astype(np.float16),
                "thumbnails": _encoded(rgb),
            }
        )
        if len(rows) == PART:
            _write_part(_part(folder, position.written // PART - 1), rows, position.tried)
            rows = []
        progress(chosen.passed, position.written)
    if rows:
        _write_part(_part(folder, position.written // PART), rows, position.tried)


def _write_part(file: Path, rows: Sequence[dict[str, Any]], tried: int) -> None:
    """Write the rows of some frames; `tried` counts the chosen frames so far, those that did not decode included."""
    columns: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "thumbnails"}
    images = [row["thumbnails"] for row in rows]
    with replacing(file) as temporary:
        np.savez(
            temporary,
            **columns,
            thumbnails=np.concatenate(images),
            thumbnail_ends=np.cumsum([len(image) for image in images]),
            tried=np.int64(tried),
        )


def _sound_parts(folder: Path) -> int:
    """How many parts there are from the first on that can be read; only the last may hold fewer than PART frames.

    Removes the others. One with fewer frames counts only where it ends the recording, which the state says.
    """
    complete = _read_state(folder).get("parts")
    sound = 0
    for number, file in enumerate(_parts(folder)):
        if number != sound or file != _part(folder, number) or not _is_sound(file, PART * (number + 1 != complete)):
            file.unlink()
        else:
            sound += 1
    return sound


def _is_sound(file: Path, least: int) -> bool:
    """Whether a part can be read, every byte of it, and holds at least so many frames."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        with np.load(file) as part:
            return damaged is None and len(part["numbers"]) >= least
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part_*.npz"))


def _part(folder: Path, number: int) -> Path:
    return folder / f"part_{number:06d}.npz"


def _read_state(folder: Path) -> dict[str, Any]:
    """What the parts are `of`, and how many `parts` a complete recording has; empty if that cannot be read."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: Path, state: dict[str, Any], parts: int | None) -> None:
    write_whole(folder / "state.json", json.dumps({"of": state, "parts": parts}).encode())


def _states(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of modification of a recording's files."""
    files = [path / name for name in files_below(path)] if path.is_dir() else [path]
    return sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _encoded(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small image of a frame, RGB [H, W, 3], as JPEG."""
    scale = min(1.0, THUMBNAIL / max(rgb.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    small = np.ascontiguousarray(resize(rgb, height, width)[:, :, ::-1])
    encoded: NDArray[np.uint8] = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].ravel()
    return encoded
