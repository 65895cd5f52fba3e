"""The plane on which an object stands, from the background around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.depth.surface import Surface

TOLERANCE = 0.01
"""Distance from a plane, as a share of the distance from the camera, within which points count as on it. Stereo depth
scatters by 0.4 % at one meter and 1.1 % at three."""
FEWEST = 60
"""Fewest points that make a plane."""
SHARE = 0.4
"""Smallest share of the background around an object that lies on its plane."""
TRIES = 64
"""Planes through three points that are tried (RANSAC). With half of the points on the plane, one try in eight is."""
MARGIN = 3
"""An object's side is so many times as long as the background around it that is looked at is wide."""
SAMPLES = 500
"""About how many points of the background are looked at."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane with its normal on the camera's side."""

    axes: NDArray[np.float64]
    """[3, 3], rotation: its columns are two directions in the plane, and the normal."""
    offset: float
    """Meters along the normal from the camera to the plane; negative."""

    def heights(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far points [N, 3] are above it, in meters."""
        return points @ self.axes[:, 2].astype(np.float32) - np.float32(self.offset)


def supporting_plane(surface: Surface, background: NDArray[np.bool_], pixels: NDArray[np.intp]) -> Plane | None:
    """The plane on which most of the `background` [H, W] around an object lies, whose pixels [N] are places in the flat
    image; None if there is none.

    It is a guess: in front of a near wall it may be the wall.
    """
    rows, columns = surface.rows_and_columns(pixels)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    margin = max(bottom - top, right - left) // MARGIN + 8
    top, left, bottom, right = max(top - margin, 0), max(left - margin, 0), bottom + margin, right + margin
    step = max(1, int(((bottom - top) * (right - left) / SAMPLES) ** 0.5))
    down, across = np.nonzero(background[top:bottom:step, left:right:step])
    places = (top + down * step) * surface.shape[1] + left + across * step
    return _plane_through_most(surface.points(places))


def _plane_through_most(points: NDArray[np.float32]) -> Plane | None:
    """The plane within TOLERANCE of most points [N, 3], fitted to these by least squares."""
    if len(points) < FEWEST:
        return None
    tolerance = np.float32(TOLERANCE * np.median(points[:, 2]))
    first, second, third = points[np.random.default_rng(0).integers(0, len(points), (3, TRIES))]
    normals = np.cross(second - first, third - first)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-9  # three points on a line, or one twice, make none
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = (normals * first[usable]).sum(axis=1)
    near = np.abs(normals @ points.T - offsets[:, None]) < tolerance
    counts = near.sum(axis=1)
    best = int(np.argmax(counts))
    if counts[best] < max(SHARE * len(points), FEWEST):
        return None
    plane = _fitted(points[near[best]])
    on_it = np.abs(plane.heights(points)) < tolerance
    return _fitted(points[on_it]) if np.count_nonzero(on_it) >= FEWEST else None


def _fitted(points: NDArray[np.float32]) -> Plane:
    """The plane with the least squared distances from points [N, 3]."""
    center = points.mean(axis=0)
    centered = points - center
    axes = np.linalg.eigh((centered.T @ centered).astype(np.float64))[1][:, ::-1]  # the normal last
    if axes[:, 2] @ center > 0:  # the camera, at 0, is above it
        axes[:, 2] *= -1
    axes[:, 0] *= np.linalg.det(axes)
    return Plane(axes, float(axes[:, 2] @ center))
