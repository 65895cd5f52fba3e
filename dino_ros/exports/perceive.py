"""What annotating and exporting features share: the run over recordings, from where it stood."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.exports.journal import Position
from dino_ros.exports.recordings import ChosenFrame, Recordings
from dino_ros.files import file_sha256
from dino_ros.masks.maker import MaskMaker
from dino_ros.perception.perceiver import Perceiver, Perception, Request
from dino_ros.perception.progress import duration

log = logging.getLogger(__name__)


def student_settings(perceiver: Perceiver) -> dict[str, object]:
    """What tells one student from another: the file's name and SHA-256."""
    return {"student": perceiver.path.name, "student_sha256": file_sha256(perceiver.path)}


def announce(perceiver: Perceiver, request: Request, recordings: Recordings, out: Path, report: Report) -> None:
    """Say what will be done and about how long it takes, by the time of one frame."""
    rgb = recordings.first().rgb()
    perceiver.warm_up()
    started = time.monotonic()
    image = perceiver.prepare_image(rgb)
    perceiver.finish(perceiver.infer([image.input], sorted(request.student_outputs))[0], image, request, MaskMaker())
    frames = max(1, round(recordings.frames * recordings.share()))
    names = ", ".join(source.name for source in recordings.sources)
    report(
        f"{perceiver.path.stem} on {names}: about {frames} of {recordings.frames} frames into {out}, about "
        f"{duration((time.monotonic() - started) * frames)} ({perceiver.chosen})."
    )


def perceive(
    perceiver: Perceiver, request: Request, recordings: Recordings, position: Position
) -> Iterator[tuple[ChosenFrame, NDArray[np.uint8], Perception]]:
    """Yield the chosen frames from `position` on, their RGB and what the student sees in them.

    Moves the position. Frames that do not decode are left out, with a warning. Masks are steadied and objects numbered
    within a recording, as the node does it with the frames of a camera.
    """
    outputs = sorted(request.student_outputs)
    for chosen in islice(recordings, position.tried, None):
        position.tried += 1
        try:
            rgb = chosen.frame.rgb()
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        image = perceiver.prepare_image(rgb, chosen.frame.stamp)
        result = perceiver.infer([image.input], outputs)[0]
        position.written += 1
        yield chosen, rgb, perceiver.finish(result, image, request, position.maker_for(chosen.recording))
