"""Features of recordings for people who train policies on a frozen encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.exports.feature_files import ROWS, Columns, open_feature_file
from dino_ros.exports.journal import Journal
from dino_ros.exports.perceive import announce, perceive, student_settings
from dino_ros.exports.recordings import Recordings
from dino_ros.files import check_writable
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.progress import Progress

DTYPES = ("float16", "float32")


def export_features(
    perceiver: Perceiver,
    recordings: Recordings,
    out: Path,
    mask: MaskParameters | None,
    dtype: str,
    report: Report,
) -> int:
    """Write a row for each chosen frame into `out`, a `.zarr` or a `.parquet`; returns the number of rows.

    Columns: `features` [h, w, C] and `embedding` [C] in `dtype`; `stamp`, int64 ns; `recording`, int32, a number of the
    metadata's list `recordings`; `frame`, int32, the number in the recording; and, unless `mask` is None, `objects`,
    uint16 [H, W] at the student's input size, 0 on the background. Goes on where an interrupted call stopped. Raises
    UserError if `out` is something else or was begun with other settings, or if no frame decodes.
    """
    check_writable(out.parent)
    request = perceiver.request(["features", "embedding", *(["objects"] if mask else [])], mask or MaskParameters())
    settings = {
        **student_settings(perceiver),
        **recordings.settings(),
        "mask": dataclasses.asdict(request.mask) if mask else None,
        "dtype": dtype,
    }
    info = perceiver.info
    description = {
        **settings,
        "recordings": recordings.paths,
        "columns": {
            "features": f"[h, w, C], patch tokens of the last block after the final norm, {dtype}",
            "embedding": f"[C], CLS token after the final norm, {dtype}",
            "stamp": "ns",
            "recording": "number in `recordings`, from 0",
            "frame": "number in the recording, from 0",
            "objects": "[H, W], 0 on the background, else the object's number; only if `mask` is not null",
        },
        "input": {"height": info.height, "width": info.width, "mean": info.mean, "std": info.std, "order": "RGB"},
        "grid": [info.height // info.patch_size, info.width // info.patch_size, info.embed_dim],
    }
    file = open_feature_file(out, description)
    journal = Journal(out.with_name(f".{out.name}.progress.npz"), settings)
    if out.exists() and not journal.path.exists():
        raise UserError(f"{out} exists and is not of `dino-ros features`: give another --out.")
    announce(perceiver, request, recordings, out, report)
    position = journal.read(out)
    if position.tried:
        report(f"Going on after {position.written} frames.")
    journal.keep(position)
    file.begin()
    progress = Progress(recordings.frames, report)
    rows: list[dict[str, object]] = []
    written = position.written - position.written % ROWS
    for chosen, _, perception in perceive(perceiver, request, recordings, position):
        assert perception.features is not None
        assert perception.embedding is not None
        row: dict[str, object] = {
            "features": perception.features.astype(dtype),
            "embedding": perception.embedding.astype(dtype),
            "stamp": np.int64(chosen.frame.stamp),
            "recording": np.int32(chosen.recording),
            "frame": np.int32(chosen.number),
        }
        if perception.objects is not None:
            size = (info.width, info.height)
            row["objects"] = cv2.resize(perception.objects, size, interpolation=cv2.INTER_NEAREST)
        rows.append(row)
        if len(rows) == ROWS:
            file.write(written, columns(rows))
            written, rows = written + ROWS, []
            journal.keep(position)
        progress(chosen.passed, position.written)
    if rows:
        file.write(written, columns(rows))
    if not written + len(rows):
        raise UserError(f"No frame of {', '.join(recordings.paths)} decodes: see the warnings above.")
    file.finish(written + len(rows))
    return written + len(rows)


def columns(rows: list[dict[str, object]]) -> Columns:
    """Rows as arrays, one row a frame."""
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
