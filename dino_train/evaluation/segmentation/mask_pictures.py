"""Predicted masks of a video as files: indexed PNGs for programs, a strip of pictures for people."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.files import write_whole
from dino_train.evaluation.segmentation.video_segmentation import SegmentedFrame

PALETTE = np.round(255 * matplotlib.colormaps["Set1"](np.arange(-1, 255) % 9)[:, :3]).astype(np.uint8)
"""RGB of each object number, [256, 3]; of 0, background, black."""
PALETTE[0] = 0
STRIP = 6
"""Frames in a strip, at most."""
STRIP_HEIGHT = 180
"""In pixels."""


def save_masks(frames: Iterable[SegmentedFrame], count: int, folder: Path) -> Iterator[SegmentedFrame]:
    """Pass a video's `count` frames on, each after its mask was written to `folder` as an indexed PNG.

    At last, `strip.png` beside them shows a few of the pictures side by side, with the objects in the PNGs' colors.
    """
    shown = set(np.linspace(0, count - 1, min(count, STRIP)).round().astype(int).tolist())
    strip = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame.found)
        image.putpalette(PALETTE.tobytes())
        _write(folder / f"{frame.name}.png", image)
        if number in shown:
            strip.append(_painted(frame))
        yield frame
    _write(folder / "strip.png", Image.fromarray(np.hstack(strip)))


def _painted(frame: SegmentedFrame) -> NDArray[np.uint8]:
    painted = np.where(frame.found[:, :, None] > 0, frame.image // 2 + PALETTE[frame.found] // 2, frame.image)
    width = round(painted.shape[1] * STRIP_HEIGHT / painted.shape[0])
    resized = cv2.resize(painted, (width, STRIP_HEIGHT), interpolation=cv2.INTER_AREA)
    return resized.astype(np.uint8, copy=False)


def _write(file: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_whole(file, encoded.getvalue())
