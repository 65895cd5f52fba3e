"""A look at an object: what a student's patch tokens say of it, and of what is around it, in one image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize

LONG_SIDE = 640
"""Most pixels on the long side of the picture that is kept of a look."""
INSIDE, OUTSIDE = 16, 96
"""Most prototypes of the object, and of its surroundings: more do not find more, and take time in every frame."""
HALF = 0.5
"""Share of a patch that the object must cover for its token to be the object's."""
CLEAR = 0.02
"""Most that it may cover of a patch whose token is the surroundings'."""
FEWEST_PIXELS = 16
"""Of the object in its image; less is a slip of the hand."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Typical tokens of a set, by k-means."""

    tokens: NDArray[np.float32]
    """[n, C], unit length."""
    weights: NDArray[np.float32]
    """[n]: the share of the set that each stands for; their sum is 1."""


@dataclass(frozen=True, eq=False)
class Look:
    """What was shown in one image."""

    picture: NDArray[np.uint8]
    """RGB [H, W, 3], at most LONG_SIDE pixels long: from it the look can be made again for another student."""
    mask: NDArray[np.uint8]
    """[H, W]: 255 on what was shown, else 0."""
    inside: Prototypes
    """Of what was shown."""
    outside: Prototypes
    """Of the rest of the image; none if what was shown fills it."""
    shows_it: bool
    """Whether it shows the object, or something that is not to be taken for it."""


def look_at(
    features: NDArray[np.float32], rgb: NDArray[np.uint8], mask: NDArray[np.uint8], shows_it: bool = True
) -> Look:
    """A look at the part of an image, RGB [H, W, 3], where `mask` [H, W] is not 0.

    `features` are the image's patch tokens [h, w, C]. Raises UserError for a mask of another size than the image, and
    for one with hardly a pixel.
    """
    if mask.shape != rgb.shape[:2]:
        raise UserError(
            f"The mask has {mask.shape[1]}x{mask.shape[0]} pixels and the image {rgb.shape[1]}x{rgb.shape[0]}: they "
            "must be of one size."
        )
    covered = np.multiply(mask != 0, 255, dtype=np.uint8)
    if np.count_nonzero(covered) < FEWEST_PIXELS:
        raise UserError(f"Fewer than {FEWEST_PIXELS} pixels show the object: mark all of it.")
    scale = LONG_SIDE / max(mask.shape)
    picture = rgb
    if scale < 1:
        height, width = (max(round(side * scale), 1) for side in mask.shape)
        picture, covered = (
            resize(rgb, height, width),
            cv2.resize(covered, (width, height), interpolation=cv2.INTER_NEAREST),
        )
    rows, columns, channels = features.shape
    coverage = cv2.resize((mask != 0).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA).ravel()
    tokens = unit(features.reshape(-1, channels))
    of_object = coverage >= min(HALF, coverage.max())
    return Look(
        picture.copy(),
        covered,
        prototypes(tokens[of_object], INSIDE),
        prototypes(tokens[coverage <= CLEAR], OUTSIDE),
        shows_it,
    )


def prototypes(tokens: NDArray[np.float32], most: int) -> Prototypes:
    """At most so many prototypes of tokens [n, C]; the same ones each time."""
    if len(tokens) <= most:
        return Prototypes(tokens, np.full(len(tokens), 1 / max(len(tokens), 1), np.float32))
    until = (cv2.TERM_CRITERIA_MAX_ITER, 10, 0)
    cv2.setRNGSeed(0)
    labels = np.zeros((len(tokens), 1), np.int32)
    _, nearest, centers = cv2.kmeans(tokens, most, labels, until, 1, cv2.KMEANS_PP_CENTERS)
    counts = np.bincount(nearest.ravel(), minlength=most).astype(np.float32)
    kept = counts > 0
    return Prototypes(unit(centers[kept].astype(np.float32, copy=False)), counts[kept] / counts.sum())


def unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tokens [..., C] of length 1."""
    lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = tokens / np.maximum(lengths, 1e-12)
    return scaled
