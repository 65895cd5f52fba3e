"""Oriented boxes around objects of which a camera sees only the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.depth.support import TOLERANCE, Plane
from dino_ros.depth.surface import FEWEST, ObjectPoints, Surface

TRIMMED = 0.01
"""Share of the points, at either end, that do not count for an extent: what noise and flying pixels leave."""
CELL = 2.5
"""Sides of the cells in which a footprint is counted, in pixels at the object's distance."""
FEWEST_IN_CELL = 2
"""Fewest points in a cell that belongs to a footprint."""
TOP = 0.1
"""Share of an object's height that is its top, whose middle is that of a symmetric object."""
SAMPLES = 1000
"""About how many points are looked at where not all are needed."""
FREE = 0.02
"""Share of the depth by which a point must lie before what the camera sees there to be no part of an object."""
HANGING = 0.6
"""Share of the points halfway down to the plane of which that is so where an object hangs in the air."""
LARGEST_GAIN = 1.5
"""Largest growth of a footprint's area by its mirrored points: of a ball that is seen from 20 degrees above."""
REFUTED = 0.05
"""Share of mirrored points of which that may be so where an object is symmetric."""


@dataclass(frozen=True, eq=False)
class Box:
    """An oriented box in meters.

    Above a supporting plane its z axis is the plane's normal, and x the longer of the other two sides. Without one the
    axes are the principal ones of the points, by falling variance. x, y, z are right-handed.
    """

    center: NDArray[np.float64]
    """[3]: the box's middle. It is not the mean of what is seen, which lies nearer to the camera."""
    axes: NDArray[np.float64]
    """[3, 3], rotation: its columns are the box's x, y and z axes."""
    size: NDArray[np.float64]
    """[3], along x, y and z."""
    standing: bool
    """Whether it was completed down to a supporting plane."""

    def quaternion(self) -> NDArray[np.float64]:
        """The axes as a quaternion x, y, z, w."""
        return quaternion(self.axes)

    def moved(self, rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> Box:
        """The box in another frame, into which points p go as rotation @ p + translation."""
        return Box(rotation @ self.center + translation, rotation @ self.axes, self.size, self.standing)


def above(points: ObjectPoints, plane: Plane) -> ObjectPoints:
    """The points that are not the plane's own, to which a mask may reach; all of them, if the object is as flat."""
    clear = plane.heights(points.xyz) > TOLERANCE * float(points.xyz[:, 2].mean())
    return points.of(clear) if np.count_nonzero(clear) >= FEWEST else points


def box_around(points: ObjectPoints, plane: Plane | None, surface: Surface) -> Box:
    """The box around an object's points, at least FEWEST, `above` whose supporting plane they are.

    On a plane the box goes down to it, unless the camera looks through where the object would stand. Its sides are
    those of the smallest rectangle around the footprint, which is what is seen of the object, from above. Where the
    object may be symmetric about the vertical line through the middle of its top, so that nothing contradicts what is
    mirrored there, the footprint includes that: it completes the unseen back of balls, bottles and bowls, and leaves
    jagged shapes alone. Without a plane nothing is completed.
    """
    if plane is None:
        return _principal_box(points.xyz)
    cell = CELL * float(points.xyz[:, 2].mean()) / surface.camera.fx
    axes = plane.axes.astype(np.float32)
    local = points.xyz @ axes
    local[:, 2] -= np.float32(plane.offset)
    some = _some(local)
    low, high = _trimmed(some[:, 2])
    halfway_down = some * np.array([1, 1, 0.5], np.float32)
    standing = not _refuted(_in_camera(halfway_down, plane), surface, HANGING)
    footprint = _occupied(local[:, 0], local[:, 1], cell)
    top = cv2.minAreaRect(some[some[:, 2] >= high - TOP * (high - low), :2])[0]
    twice = np.array([2 * top[0], 2 * top[1], 0], np.float32)
    mirrored = some * np.array([-1, -1, 1], np.float32) + twice
    middle, sides, degrees = cv2.minAreaRect(footprint)
    if not _refuted(_in_camera(mirrored, plane), surface, REFUTED):
        whole = cv2.minAreaRect(np.concatenate([footprint, twice[:2] - footprint]))
        if whole[1][0] * whole[1][1] < LARGEST_GAIN * sides[0] * sides[1]:
            middle, sides, degrees = whole
    if sides[0] < sides[1]:
        sides, degrees = sides[::-1], degrees + 90
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    bottom = min(0.0, low) if standing else low
    center = plane.axes @ [*middle, plane.offset + (bottom + high) / 2]
    return Box(center, plane.axes @ turn, np.maximum([*sides, high - bottom], cell), standing)


def _principal_box(points: NDArray[np.float32]) -> Box:
    """The box of points [N, 3] along their principal axes."""
    middle = points.mean(axis=0)
    axes = np.linalg.eigh(np.cov(points.T))[1][:, ::-1]
    axes[:, 2] *= np.linalg.det(axes)
    low, high = np.array([_trimmed(along) for along in ((points - middle) @ axes).T]).T
    return Box(middle + axes @ ((low + high) / 2), axes, high - low, standing=False)


def _occupied(x: NDArray[np.float32], y: NDArray[np.float32], cell: float) -> NDArray[np.float32]:
    """Middles [M, 2] of the square cells that hold at least FEWEST_IN_CELL of points x, y [N]; of all, if none does.

    A point far off the others would make a huge grid: the points are those of one part in depth.
    """
    start = x.min(), y.min()
    column, row = (((axis - low) / np.float32(cell)).astype(np.intp) for axis, low in zip((x, y), start, strict=True))
    wide = int(row.max()) + 1
    counts = np.bincount(column * wide + row)
    often = np.flatnonzero(counts >= min(FEWEST_IN_CELL, counts.max()))
    return np.asarray(start + (np.stack(np.divmod(often, wide), axis=1) + 0.5) * cell, np.float32)


def _trimmed(values: NDArray[Any]) -> tuple[float, float]:
    """The smallest and largest of values [N] without TRIMMED of them at either end."""
    rising = np.sort(values)
    left_out = int(TRIMMED * len(rising))
    return float(rising[left_out]), float(rising[-1 - left_out])


def _some(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """About SAMPLES of points [N, C], evenly."""
    return np.ascontiguousarray(points[:: len(points) // SAMPLES + 1])


def _in_camera(local: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Points [N, 3] along a plane's axes, the third their height above it, in the camera's frame."""
    return np.asarray((local + np.array([0, 0, plane.offset], np.float32)) @ plane.axes.T.astype(np.float32))


def _refuted(points: NDArray[Any], surface: Surface, share: float) -> bool:
    """Whether more than a share of points [N, 3] lie where the camera looks through."""
    rows, columns, inside = surface.camera.pixels(points)
    seen = surface.depth[rows, columns]
    through = inside & (seen > 0) & (points[:, 2] < (1 - FREE) * seen)
    return bool(np.count_nonzero(through) > share * len(points))


def quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unit quaternion x, y, z, w, with w >= 0, of a rotation [3, 3].

    The largest of the four is computed first, as in Shepperd 1978, so that half turns are as exact as others.
    """
    m: Any = rotation
    trace = np.trace(m)
    # Row i holds the four, times four times the i-th.
    products = np.array(
        [
            [1 + 2 * m[0, 0] - trace, m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 + 2 * m[1, 1] - trace, m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 + 2 * m[2, 2] - trace, m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + trace],
        ]
    )
    row = products[np.argmax(np.diag(products))]
    row = row / np.linalg.norm(row)
    return np.asarray(-row if row[3] < 0 else row)


def rotation(x: float, y: float, z: float, w: float) -> NDArray[np.float64]:
    """The rotation [3, 3] of a quaternion, which need not have length 1."""
    x, y, z, w = np.array([x, y, z, w]) / np.linalg.norm([x, y, z, w])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
