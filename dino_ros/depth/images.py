"""Depth images to meters, and the pinhole that makes points of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError, quoted
from dino_ros.images.encodings import ImageLike
from dino_ros.messages import to_array

MILLIMETERS = {"16UC1", "mono16"}
"""Encodings of depth in millimeters, 0 where it is unknown; mono16 is what some drivers call it (REP 118 has 16UC1)."""
METERS = "32FC1"
"""Encoding of depth in meters, NaN or infinite where it is unknown."""
FARTHEST = 1000.0
"""Meters beyond which depth is unknown: no camera measures it, and its square would overflow."""
ASPECT_TOLERANCE = 0.02
"""Share by which width over height of two images may differ that show the same."""


def depth_meters(message: ImageLike) -> NDArray[np.float32]:
    """Depth [H, W] in meters, 0 where unknown, of an image message in millimeters (16UC1) or meters (32FC1).

    Raises UserError for other encodings, and for data that does not fit the stated size.
    """
    if message.encoding in MILLIMETERS:
        return to_array(message).astype(np.float32) * np.float32(0.001)
    if message.encoding != METERS:
        raise UserError(
            f"The encoding {quoted(message.encoding)} is not depth: publish 16UC1 (millimeters) or 32FC1 (meters)."
        )
    depth: NDArray[np.float32] = to_array(message)
    return np.where((depth > 0) & (depth < FARTHEST), depth, np.float32(0))  # neither holds for NaN


@dataclass(frozen=True)
class Pinhole:
    """Where a rectified camera sees points: column = fx x / z + cx, row = fy y / z + cy.

    x is to the right, y down, z forward, as in ROS's optical frames; pixel centers are at whole numbers.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def of(cls, info: Any) -> Pinhole:
        """The pinhole of a sensor_msgs/CameraInfo: of its P, which is that of the rectified image, else of its K.

        That choice and the region of interest are those of image_geometry. Raises UserError where both are unset or
        not finite, as those of a camera that was never calibrated are.
        """
        p, k = np.reshape(info.p, (3, 4)), np.reshape(info.k, (3, 3))
        matrix = p[:, :3] if p[0, 0] else k
        fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
        if not np.isfinite([fx, fy, cx, cy]).all() or fx <= 0 or fy <= 0 or not info.width or not info.height:
            raise UserError(
                f"The camera_info of the depth image has fx {fx:g}, fy {fy:g}, cx {cx:g}, cy {cy:g} and the size "
                f"{info.width}x{info.height}: calibrate the camera, or remap depth/camera_info to its calibration."
            )
        region = info.roi
        width, height = (region.width, region.height) if region.width and region.height else (info.width, info.height)
        return cls(width, height, float(fx), float(fy), float(cx) - region.x_offset, float(cy) - region.y_offset)

    def resized(self, height: int, width: int) -> Pinhole:
        """The pinhole of the same image at another size. Raises UserError for one of another shape."""
        check_same_shape("depth image", (height, width), "camera_info", (self.height, self.width))
        across, down = width / self.width, height / self.height
        return Pinhole(
            width,
            height,
            self.fx * across,
            self.fy * down,
            (self.cx + 0.5) * across - 0.5,
            (self.cy + 0.5) * down - 0.5,
        )

    def points(self, rows: NDArray[Any], columns: NDArray[Any], depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points float32 [N, 3] in meters, of pixels [N] and their depth [N]."""
        points = np.empty((len(depth), 3), np.float32)
        points[:, 0] = (columns - np.float32(self.cx)) * np.float32(1 / self.fx) * depth
        points[:, 1] = (rows - np.float32(self.cy)) * np.float32(1 / self.fy) * depth
        points[:, 2] = depth
        return points

    def pixels(self, points: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Rows [N] and columns [N] of points [N, 3], and which of the points are in the image; the others get 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            column = self.fx * points[:, 0] / points[:, 2] + self.cx
            row = self.fy * points[:, 1] / points[:, 2] + self.cy
            inside = (points[:, 2] > 0) & (column > -0.5) & (row > -0.5)
            inside &= (column < self.width - 0.5) & (row < self.height - 0.5)
        return (
            np.rint(np.where(inside, row, 0)).astype(np.intp),
            np.rint(np.where(inside, column, 0)).astype(np.intp),
            inside,
        )


def check_same_shape(name: str, size: tuple[int, int], other: str, other_size: tuple[int, int]) -> None:
    """Raise UserError for sizes (height, width) of two images that cannot show the same: their shapes differ."""
    (height, width), (other_height, other_width) = size, other_size
    if abs(width * other_height - other_width * height) > ASPECT_TOLERANCE * width * other_height:
        raise UserError(
            f"The {name} has {width}x{height} pixels, but the {other} {other_width}x{other_height}, another shape: "
            "give depth that is registered to the color camera (RealSense: align_depth.enable)."
        )
