"""What a stereo depth camera such as Intel's RealSense D435 makes of true depth: noise, holes and flying pixels.

The noise is one of disparity, so that it grows with the square of the distance: Grunnet-Jepsen, Sweetser and Woodfill,
"Tuning depth cameras for best performance" (Intel), RMS error = distance^2 * subpixel / (focal length * baseline). That
neighbors share it, that depth is read a little beside its pixel, which turns edges ragged and mixes both sides there
to flying pixels, and that disparity comes in steps is the model of Handa et al. 2014, "A benchmark for RGB-D visual
odometry, 3D reconstruction and SLAM", section III-D. Holes are where only one of the two imagers sees the surface,
where it is seen at a grazing angle, and where it is dark.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FOCAL, BASELINE = 425.0, 0.050  # of the D435's imagers at 848x480, pixels; between them, meters
SUBPIXEL = 0.08  # RMS error of disparity on well-textured surfaces, pixels
STEP = 1 / 32  # of disparity, pixels
SHARED = 1.5  # standard deviation of the window whose pixels share their noise, pixels at 640x480
SHIFT = 0.5  # standard deviation of where depth is read beside its pixel, pixels at 640x480
GRAZING = 0.15  # cosine between a surface and the ray below which it has no depth
DARK = 25  # gray level, of 255, below which half of the pixels have no depth


def as_measured(
    depth: NDArray[np.float64], rgb: NDArray[np.uint8], focal: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Depth [H, W] in millimeters, 0 for holes, of true depth [H, W] in meters.

    `rgb` [H, W, 3] uint8 is the image of the camera, whose focal length is `focal` pixels and to which the depth is
    registered.
    """
    height, width = depth.shape
    scale = width / 640
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    beside = rng.normal(0, SHIFT * scale, (2, height, width)).astype(np.float32)
    read = cv2.remap(
        depth.astype(np.float32),
        columns + beside[0],
        rows + beside[1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), SHARED * scale)
    disparity = FOCAL * BASELINE / read + SUBPIXEL * noise / noise.std()
    measured = FOCAL * BASELINE / (np.round(disparity / STEP) * STEP)
    dark = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) < DARK
    hole = _half_seen(depth, focal) | (_facing(depth, focal) < GRAZING) | (dark & (rng.random(dark.shape) < 0.5))
    return np.where(hole, 0, np.round(measured * 1000)).astype(np.uint16)


def _half_seen(depth: NDArray[np.float64], focal: float) -> NDArray[np.bool_]:
    """Where the second imager, to the right of the first, sees something nearer in place of the surface."""
    column = np.arange(depth.shape[1]) - focal * BASELINE / depth  # in the second image
    to_the_right = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(depth.shape, bool)
    hidden[:, :-1] = to_the_right[:, 1:] < column[:, :-1] - 0.5  # half a pixel: more than the slope of a surface makes
    return hidden


def _facing(depth: NDArray[np.float64], focal: float) -> NDArray[np.float64]:
    """Cosine of the angle between the surface's normal and the ray."""
    height, width = depth.shape
    columns, rows = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    # The normal of a surface z(x, y) is (dz/dx, dz/dy, -1), with z' the change of z per pixel: z / focal wide, plus
    # what the ray's slant adds.
    slopes = [_slope(depth, axis) for axis in (1, 0)]
    normal = np.dstack([*slopes, -(depth + columns * slopes[0] + rows * slopes[1]) / focal])
    ray = np.dstack([columns, rows, np.full_like(depth, focal)])
    return np.abs((normal * ray).sum(-1)) / (np.linalg.norm(normal, axis=-1) * np.linalg.norm(ray, axis=-1))


def _slope(depth: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Change of depth per pixel, to the neighbor that is less far off: at an outline that on the same side."""
    steps = np.diff(depth, axis=axis)
    edge = np.take(steps, [0], axis), np.take(steps, [-1], axis)
    before, after = np.concatenate([edge[0], steps], axis), np.concatenate([steps, edge[1]], axis)
    return np.where(np.abs(before) < np.abs(after), before, after)
