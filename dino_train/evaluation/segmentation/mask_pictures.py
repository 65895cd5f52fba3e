"""A video's predicted masks as files: indexed PNGs for programs, a strip of frames for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.files import replacing
from dino_ros.images.sampling import evenly_spaced
from dino_train.evaluation.segmentation.video_segmentation import SegmentedFrame

PALETTE = np.round(255 * matplotlib.colormaps["Set1"](np.arange(-1, 255) % 9)[:, :3]).astype(np.uint8)
"""[256, 3]: the RGB color of each object number; the background, 0, is black."""
PALETTE[0] = 0
STRIP = 6
"""Frames in a strip, at most."""
STRIP_HEIGHT = 180
"""Pixels."""


def save_masks(frames: Iterable[SegmentedFrame], count: int, folder: Path) -> Iterator[SegmentedFrame]:
    """Pass on a video's `count` frames, writing each one's mask to `folder` as an indexed PNG.

    Finally writes `strip.png`, a few frames side by side with their objects in the colors of the PNGs.
    """
    shown = set(evenly_spaced(count, STRIP))
    strip = []
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame.predicted)
        image.putpalette(PALETTE.tobytes())
        _write(folder / f"{frame.name}.png", image)
        if number in shown:
            strip.append(_painted(frame))
        yield frame
    _write(folder / "strip.png", Image.fromarray(np.hstack(strip)))


def _painted(frame: SegmentedFrame) -> NDArray[np.uint8]:
    painted = np.where(frame.predicted[:, :, None] > 0, frame.image // 2 + PALETTE[frame.predicted] // 2, frame.image)
    width = round(painted.shape[1] * STRIP_HEIGHT / painted.shape[0])
    resized = cv2.resize(painted, (width, STRIP_HEIGHT), interpolation=cv2.INTER_AREA)
    return resized.astype(np.uint8, copy=False)


def _write(file: Path, image: Image.Image) -> None:
    with replacing(file) as temporary:
        image.save(temporary)
