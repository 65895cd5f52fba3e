"""The frames that differ most from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.exports.perceive import student_settings
from dino_ros.exports.recordings import Recordings
from dino_ros.files import check_writable
from dino_ros.mining.sheet import Entry, write_results
from dino_ros.mining.vectors import vectors_of
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.pictures import write_picture


@dataclass(frozen=True)
class Centers:
    """Chosen rows, in the order in which they were chosen."""

    indices: NDArray[np.int64]
    """[n]: numbers of the rows."""
    distances: NDArray[np.float32]
    """[n]: how far each is from those chosen before it, and 0 for the first."""
    radius: float
    """How far the farthest row is from its nearest center."""


def k_centers(rows: NDArray[np.float32], count: int) -> Centers:
    """At most `count` of the rows [N, C], so that none is far from the nearest: k-center greedy (Gonzalez 1985).

    The first is the one nearest to the mean; each next one is farthest from those before. The radius is at most twice
    the least that so many centers can have. Distances are Euclidean. Rows that repeat a chosen one are left out. Takes
    O(N count C) and a float per row.
    """
    chosen = [int(np.argmin(_distances(rows, rows.mean(axis=0))))]
    nearest = _distances(rows, rows[chosen[0]])
    distances = [0.0]
    while len(chosen) < count and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        distances.append(float(nearest[chosen[-1]]))
        np.minimum(nearest, _distances(rows, rows[chosen[-1]]), out=nearest)
    return Centers(np.array(chosen), np.array(distances, np.float32), float(nearest.max()))


def write_diverse(
    perceiver: Perceiver,
    paths: Sequence[Path],
    topic: str | None,
    rate: float,
    count: int,
    out: Path,
    report: Report,
) -> tuple[int, int, float]:
    """Write the `count` frames of recordings that differ most, by embeddings of unit length, into the folder `out`.

    They are images/*.jpg, named after their recording and number; frames.json, in the order of choice; and
    contact_sheet.png. `topic` and `rate` choose among the recordings' frames as for `vectors_of`. Returns how many
    frames were written, of how many, and the radius of `k_centers`. Raises UserError if images/ is not empty.
    """
    if count < 1:
        raise UserError(f"--count is {count}: give how many frames to pick, 1 or more.")
    check_writable(out)
    images = out / "images"
    if images.is_dir() and any(images.iterdir()):
        raise UserError(f"{images} holds images already: give another --out, or remove them.")
    seen = vectors_of(perceiver, paths, topic, rate, report)
    centers = k_centers(np.concatenate([one.embeddings for one in seen]), count)
    starts = np.cumsum([0, *map(len, seen)])
    recordings = Recordings(paths, topic, rate)
    names: dict[tuple[int, int], str] = {}
    entries = []
    for row, distance in zip(centers.indices.tolist(), centers.distances.tolist(), strict=True):
        recording = int(np.searchsorted(starts, row, side="right")) - 1
        index = row - int(starts[recording])
        number = seen[recording].frames[index].number
        name = f"{recordings.names[recording]}_{number:06d}.jpg"
        names[recording, number] = name
        values = {"file_name": name, "distance": round(distance, 4)}
        entries.append(Entry(recording, index, f"{distance:.2f}", values))
    report(f"Writing {len(names)} frames into {images}.")
    for chosen in recordings:
        if name := names.get((chosen.recording, chosen.number), ""):
            write_picture(images / name, chosen.frame.rgb())
    description = {**student_settings(perceiver), "rate": rate, "radius": round(centers.radius, 4)}
    frames = int(starts[-1])
    heading = f"{len(names)} of {frames} frames, each with its distance to those before it"
    write_results(out, heading, seen, entries, description)
    return len(names), frames, centers.radius


def _distances(rows: NDArray[np.float32], row: NDArray[np.float32]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.linalg.norm(rows - row, axis=1)
    return distances
