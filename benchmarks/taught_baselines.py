"""What is often written to find an object by one picture of it: SIFT, and the cosine of one patch token."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.binary import jaccard
from dino_ros.taught.looks import unit

RATIO = 0.75
"""Most distance of a match, relative to that of the second best."""
INLIERS = 8
"""Matches that fit one homography, for SIFT to have found an object."""
PRECISE = 3.0
"""Pixels by which such a match may be off."""

Points = tuple[Sequence[cv2.KeyPoint], NDArray[np.float32] | None]
"""The points of an image, and the descriptor of each."""


def sift_points(rgb: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> Points:
    """The points of an image [H, W, 3], of a part of it where a mask [H, W] is given."""
    points, descriptors = cv2.SIFT_create().detectAndCompute(rgb, mask)  # type: ignore[attr-defined]
    return points, descriptors


class SiftObject:
    """SIFT (Lowe 2004): matches by the ratio test that fit one homography, which carries the mask."""

    def __init__(self, rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """`mask` [H, W] is not 0 on the object."""
        self._mask = (mask != 0).astype(np.uint8)
        self._points, self._descriptors = sift_points(rgb, self._mask * 255)

    def __call__(self, seen: Points) -> NDArray[np.bool_]:
        """The object [H, W] in an image of the same size with these points; nowhere if it is not found."""
        points, descriptors = seen
        nowhere = np.zeros(self._mask.shape, bool)
        if self._descriptors is None or descriptors is None or len(descriptors) < 2:
            return nowhere
        pairs = cv2.BFMatcher().knnMatch(self._descriptors, descriptors, k=2)
        good = [one for one, other in pairs if one.distance < RATIO * other.distance]
        if len(good) < 4:
            return nowhere
        source = np.array([self._points[one.queryIdx].pt for one in good], np.float32)
        target = np.array([points[one.trainIdx].pt for one in good], np.float32)
        homography, fits = cv2.findHomography(source, target, cv2.RANSAC, PRECISE)
        if homography is None or np.count_nonzero(fits) < INLIERS:
            return nowhere
        moved = cv2.warpPerspective(self._mask, homography, nowhere.shape[::-1], flags=cv2.INTER_NEAREST)
        carried: NDArray[np.bool_] = moved > 0
        return carried


class PointCosine:
    """The patch token at the middle of a mask: what is more like it than a threshold is the object.

    The threshold is the one whose mask of the first image fits best.
    """

    def __init__(self, features: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
        """`features` [h, w, C] are the first image's patch tokens, `mask` [H, W] is not 0 on the object."""
        self._size = mask.shape
        (row, column), (rows, columns) = middle(mask), features.shape[:2]
        self._token = unit(features[row * rows // mask.shape[0], column * columns // mask.shape[1]])
        alike = self._alike(features)
        levels = np.linspace(0, 1, 101)
        self._threshold = max(levels, key=lambda level: jaccard(alike > level, mask != 0))

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The object [H, W] in an image with these patch tokens."""
        found: NDArray[np.bool_] = self._alike(features) > self._threshold
        return found

    def highest(self, features: NDArray[np.float32]) -> float:
        """How like the token the most similar patch of an image is, a cosine."""
        return float((unit(features) @ self._token).max())

    def _alike(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return cv2.resize(unit(features) @ self._token, self._size[::-1], interpolation=cv2.INTER_LINEAR)


def middle(mask: NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column of the pixel of a mask [H, W] that is furthest from its edge."""
    depth = cv2.distanceTransform(np.pad((mask != 0).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)
