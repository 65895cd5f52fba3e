"""Whether one student finds objects better than another, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.folders import image_files
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.background import background_mask
from dino_ros.masks.binary import jaccard
from dino_ros.masks.normalized_cut import normalized_cut_mask
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.pictures import read_picture

MOST_IMAGES = 100
"""Images looked at, at most."""
ALONE = MaskParameters(steady=0.0)
"""How the masks are made: as the node makes them by default, each from its image alone."""
DARKER, NOISE = 0.85, 4.0
"""What is done to an image to see how steady its mask is: factor of its light, and standard deviation of noise in gray
levels; it is also moved by half a patch."""
EMPTY, FULL = 0.002, 0.8
"""Shares of an image below and above which a mask says nothing."""
GAIN = 0.01
"""Agreement that a better student must have more: less is within the noise of which images were held back."""
STEADINESS_LOSS = 0.02
"""Steadiness that it may lose."""
SOUND_LOSS = 0.02
"""Share of sound masks that it may lose."""


@dataclass(frozen=True)
class Scores:
    """What can be said of a student's masks without labels; each is a mean over images, 0 to 1."""

    agreement: float
    """IoU, on the patch grid, with the masks of `referee_mask`."""
    steadiness: float
    """IoU of an image's sound mask with that of the same image in other light, moved and noisy."""
    sound: float
    """Share of masks that are neither empty nor full."""


def judge(students: Sequence[Perceiver], folder: Path, referee: Perceiver | None = None) -> list[Scores]:
    """Scores of each student on at most MOST_IMAGES of the images in a folder.

    The referee, whose features the masks that they are compared with are made of, is the first student unless given.
    Raises UserError if there are no images, or one cannot be read.
    """
    files = image_files(folder)
    if not files:
        raise UserError(f"{folder} has no images: give a folder of images that none of the students was trained on.")
    rows: list[list[tuple[float, float, float]]] = []
    for number in evenly_spaced(len(files), MOST_IMAGES):
        rgb = read_picture(files[number])
        reference = referee_mask(referee or students[0], rgb)
        rows.append([_scores(student, rgb, reference, number) for student in students])
    return [_mean(np.array(of_one)) for of_one in zip(*rows, strict=True)]


def _mean(rows: NDArray[np.float64]) -> Scores:
    """Scores from those of each image [N, 3]; steadiness counts where the mask is sound."""
    agreement, steadiness, sound = rows.T
    steady = float(steadiness[sound > 0].mean()) if sound.any() else 0.0
    return Scores(round(float(agreement.mean()), 4), round(steady, 4), round(float(sound.mean()), 4))


def referee_mask(student: Perceiver, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where objects are in an RGB image [H, W, 3] by the mean of two methods that err in different ways: [h, w].

    No head takes part. A foreground head learns from such masks of many images, and outlines objects better than they
    do: what all heads make of images that they did not see is compared with the same masks.
    """
    seen = student(rgb, ("features", "attention"))
    assert seen.features is not None  # it was asked for
    assert seen.attention is not None
    unlike_background = background_mask(seen.features, seen.attention, rounds=0).astype(np.float32)
    mask: NDArray[np.bool_] = unlike_background + normalized_cut_mask(seen.features, seen.attention)[0] > 1.0
    return mask


def _scores(
    student: Perceiver, rgb: NDArray[np.uint8], reference: NDArray[np.bool_], seed: int
) -> tuple[float, float, float]:
    step = student.info.patch_size * rgb.shape[1] // student.info.width // 2
    noise = np.random.default_rng(seed).normal(0, NOISE, rgb.shape)
    disturbed = np.clip(np.roll(rgb, step, axis=1) * DARKER + noise, 0, 255).astype(np.uint8)
    masks = student([rgb, disturbed], ("mask",), ALONE)
    mask, moved = (one.mask > 0 for one in masks if one.mask is not None)
    shares = cv2.resize(mask.astype(np.float32), reference.shape[::-1], interpolation=cv2.INTER_AREA)
    inside = slice(step, None)  # what was moved out on one side came in on the other
    steadiness = jaccard(mask[:, : mask.shape[1] - step], moved[:, inside])
    return jaccard(shares > 0.5, reference), steadiness, float(EMPTY <= mask.mean() <= FULL)


def why_no_better(running: Scores, candidate: Scores) -> str:
    """Why a candidate must not take the place of the running student, in words; empty if it is better."""
    if candidate.sound < running.sound - SOUND_LOSS:
        return f"fewer of its masks are sound ({candidate.sound:.2f} instead of {running.sound:.2f})"
    if candidate.steadiness < running.steadiness - STEADINESS_LOSS:
        return f"its masks are less steady ({candidate.steadiness:.2f} instead of {running.steadiness:.2f})"
    if candidate.agreement < running.agreement + GAIN:
        return f"its masks agree no better ({candidate.agreement:.2f} instead of {running.agreement:.2f})"
    return ""
