"""The surfaces that a depth image shows: which of its pixels can be trusted, and points of those of objects."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.depth.images import Pinhole, check_same_shape

JUMP = 0.02
"""Share of its depth by which a pixel may lie behind its nearest neighbor. One further behind hangs between two
surfaces (a flying pixel), or is the background's at an outline, where color and depth seldom fit to the pixel."""
GAP = 0.1
"""Gap in an object's depths, as a share of its depth, beyond which the smaller part is not the object's."""
FEWEST = 30
"""Fewest points of an object that is located."""
SAMPLES = 1000
"""About how many of an object's depths are searched for gaps."""
AROUND = 4
"""Pixels around objects that do not count as background: masks end a little beside outlines."""

_NEIGHBORS = np.ones((3, 3), np.uint8)
_FAR = np.float32(1e6)


class ObjectPoints(NamedTuple):
    """The points of one object."""

    number: int
    xyz: NDArray[np.float32]
    """[N, 3], meters, in the camera's optical frame."""
    pixels: NDArray[np.intp]
    """[N], places in the flat depth image."""

    def of(self, which: NDArray[np.bool_]) -> ObjectPoints:
        """Some of the points."""
        places = np.flatnonzero(which)  # rows are taken by place in a third of the time
        return ObjectPoints(self.number, self.xyz.take(places, axis=0), self.pixels.take(places))


class Surface:
    """A depth image [H, W] in meters, 0 where unknown, and its camera; of any size of the same shape."""

    def __init__(self, depth: NDArray[np.float32], camera: Pinhole) -> None:
        self.depth = depth
        self.camera = camera.resized(*depth.shape)
        known = depth > 0
        nearest = np.where(known, depth, _FAR)
        cv2.erode(nearest, _NEIGHBORS, dst=nearest)
        nearest *= np.float32(1 / (1 - JUMP))
        self.solid: NDArray[np.bool_] = np.less_equal(depth, nearest) & known
        """[H, W]: where depth is known and no flying pixel."""

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.depth.shape
        return height, width

    def registered(self, mask: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Numbers [H, W] of a mask at the depth's size. Raises UserError where it has another shape."""
        check_same_shape("depth image", self.shape, "mask", (mask.shape[0], mask.shape[1]))
        if mask.shape == self.shape:
            return mask
        return cv2.resize(mask, self.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint16, copy=False)

    def background(self, objects: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[H, W]: solid pixels that are not on objects [H, W], nor beside them."""
        beside = np.ones((2 * AROUND + 1, 2 * AROUND + 1), np.uint8)
        return np.asarray(self.solid & (cv2.dilate(objects.astype(np.uint8), beside) == 0))

    def points(self, pixels: NDArray[np.intp]) -> NDArray[np.float32]:
        """Points [N, 3] of places [N] in the flat image."""
        return self.camera.points(*self.rows_and_columns(pixels), self.depth.ravel()[pixels])

    def rows_and_columns(self, pixels: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where places [N] in the flat image are."""
        rows = pixels // self.shape[1]
        return rows, pixels - rows * self.shape[1]  # NumPy's divmod takes ten times as long

    def object_points(self, numbers: NDArray[np.uint16]) -> list[ObjectPoints]:
        """The points of each object in numbers [H, W] (0: background) that has any, by rising number."""
        places = np.flatnonzero((numbers > 0) & self.solid)
        found = numbers.ravel()[places]
        order = np.argsort(found, kind="stable")
        places, found = places[order], found[order]
        points = self.points(places)
        names, starts, counts = np.unique(found, return_index=True, return_counts=True)
        return [
            ObjectPoints(name, points[start : start + count], places[start : start + count])
            for name, start, count in np.stack([names, starts, counts], axis=1).tolist()
        ]


def largest_part(points: ObjectPoints) -> ObjectPoints:
    """The points, at least one, between the two gaps in depth among which most of them lie: masks reach beyond outlines
    to what is far behind."""
    depth = points.xyz[:, 2]
    rising = np.sort(depth[:: len(depth) // SAMPLES + 1])
    gaps = np.flatnonzero(np.diff(rising) > GAP * rising[:-1])
    if not len(gaps):
        return points
    ends = np.array([0, *(gaps + 1), len(rising)])
    largest = int(np.argmax(np.diff(ends)))
    margin = np.float32(1 + GAP / 2)  # beyond the samples, within the gaps
    nearest, farthest = rising[ends[largest]] / margin, rising[ends[largest + 1] - 1] * margin
    return points.of((depth >= nearest) & (depth <= farthest))
