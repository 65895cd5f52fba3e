"""Frames that hold something like a crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.mining.vectors import Vectors
from dino_ros.mining.whitening import Whitening
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import patch_tokens
from dino_ros.taught.looks import unit

SCALES = (0.7, 0.5, 0.35, 0.25)
"""Of a crop, relative to the student's input: nobody knows how large the thing is in the frames."""
SHRINKAGE = 1.0
"""Of the whitening: a crop on a plain ground is unlike a frame in directions that hardly vary among frames."""
COVERED = 0.6
"""Share of a patch that the crop covers for its token to be the crop's."""
ALIKE = 0.5
"""Share of the best patch's likeness from which on the patches around it are the same thing."""

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Hit:
    """What is like the crop in a frame."""

    likeness: float
    """Cosine of the whitened tokens, -1 to 1."""
    box: Box
    """Where, in the frame."""


def looks_of_crop(perceiver: Perceiver, crop: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The tokens [n, C] of a crop, RGB [H, W, 3], in the middle of a plain image, at each of SCALES; of unit length."""
    info = perceiver.info
    plain = np.full((info.height, info.width, 3), np.round(255 * np.array(info.mean)), np.uint8)
    found = []
    for scale in SCALES:
        factor = scale * min(info.height / crop.shape[0], info.width / crop.shape[1])
        height, width = (max(1, round(side * factor)) for side in crop.shape[:2])
        top, left = (info.height - height) // 2, (info.width - width) // 2
        image = plain.copy()
        image[top : top + height, left : left + width] = resize(crop, height, width)
        found.append(_tokens_in(perceiver, image, (left, top, width, height)))
    return found


def look_in_box(
    perceiver: Perceiver, rgb: NDArray[np.uint8], box: tuple[float, float, float, float]
) -> list[NDArray[np.float32]]:
    """The tokens [n, C] in a box (left, top, width, height in pixels) of an image, RGB [H, W, 3]; of unit length.

    Raises UserError if the box is outside the image.
    """
    left, top, width, height = box
    rows, columns = rgb.shape[:2]
    if width <= 0 or height <= 0 or left >= columns or top >= rows or left + width <= 0 or top + height <= 0:
        raise UserError(
            f"The box {left:g},{top:g},{width:g},{height:g} is outside the image of {columns}x{rows} pixels."
        )
    return [_tokens_in(perceiver, rgb, (round(left), round(top), max(round(width), 1), max(round(height), 1)))]


def _tokens_in(perceiver: Perceiver, rgb: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    tokens = unit(patch_tokens(perceiver, rgb))
    left, top, width, height = box
    inside = np.zeros(rgb.shape[:2], np.float32)
    inside[max(top, 0) : top + height, max(left, 0) : left + width] = 1
    coverage = cv2.resize(inside, tokens.shape[1::-1], interpolation=cv2.INTER_AREA)
    within: NDArray[np.float32] = tokens[coverage >= min(COVERED, float(coverage.max()))]
    return within


def search(recordings: Sequence[Vectors], looks: Sequence[NDArray[np.float32]]) -> list[list[Hit]]:
    """What is most like the looks, tokens [n, C] each, in each frame of each recording.

    Looks count the same, however many tokens they have. Memory does not grow with the recordings.
    """
    whiten = Whitening.of((tokens for recording in recordings for tokens in recording.tokens()), SHRINKAGE)
    wanted = unit(np.sum([unit(unit(whiten(look)).mean(axis=0)) for look in looks], axis=0))
    hits = []
    for recording in recordings:
        likenesses = (unit(whiten(tokens)) @ wanted for tokens in recording.tokens())
        hits.append(
            [
                Hit(float(likeness.max()), _box(likeness, frame.height, frame.width))
                for frame, likeness in zip(recording.frames, likenesses, strict=True)
            ]
        )
    return hits


def _box(likeness: NDArray[np.float32], height: int, width: int) -> Box:
    """The box around the best patch and those connected to it that are nearly as alike, in an image of that size."""
    rows, columns = likeness.shape
    _, parts = cv2.connectedComponents((likeness >= ALIKE * likeness.max()).astype(np.uint8), connectivity=4)
    best = np.unravel_index(int(likeness.argmax()), likeness.shape)
    of_it = (
        parts == parts[best]
        if likeness.max() > 0
        else np.arange(likeness.size).reshape(rows, columns) == likeness.argmax()
    )
    left, top, across, down = cv2.boundingRect(of_it.astype(np.uint8))
    x, y = round(left * width / columns), round(top * height / rows)
    return x, y, round((left + across) * width / columns) - x, round((top + down) * height / rows) - y
