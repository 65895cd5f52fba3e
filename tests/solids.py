"""Depth images of solids on a table, by ray casting: exact where a renderer's are rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.depth.images import Pinhole

CAMERA = Pinhole(width=320, height=240, fx=280.0, fy=280.0, cx=159.5, cy=119.5)


@dataclass(frozen=True)
class View:
    """A camera that looks down at a table; points of the table's frame are rotation.T @ (camera - translation)."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    def into_camera(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.rotation @ point + self.translation

    def rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Origin [3] and directions [H, W, 3], one unit along the camera's z, in the table's frame."""
        columns, rows = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
        directions = np.dstack(
            [(columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy, np.ones(columns.shape)]
        )
        return -self.rotation.T @ self.translation, directions @ self.rotation


def looking_down(degrees: float, distance: float = 0.9) -> View:
    """A view of the table's middle, at so many degrees below the horizon."""
    down = np.radians(degrees)
    forward = np.array([0, np.cos(down), -np.sin(down)])
    right = np.array([1.0, 0, 0])
    rotation = np.stack([right, np.cross(forward, right), forward])
    return View(rotation, rotation @ (distance * forward))


def table(view: View) -> NDArray[np.float64]:
    """Depth [H, W] of the plane z = 0; infinite beyond the horizon."""
    origin, directions = view.rays()
    with np.errstate(divide="ignore"):
        depth = -origin[2] / directions[..., 2]
    return np.where(depth > 0, depth, np.inf)


def cuboid(view: View, center: NDArray[np.float64], size: NDArray[np.float64], yaw: float) -> NDArray[np.float64]:
    """Depth [H, W] of a box turned about z; infinite beside it."""
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    origin, directions = view.rays()
    origin, directions = (origin - center) @ turn, directions @ turn
    with np.errstate(divide="ignore"):
        sides = np.stack([(-size / 2 - origin) / directions, (size / 2 - origin) / directions])
    enter, leave = sides.min(axis=0).max(axis=-1), sides.max(axis=0).min(axis=-1)
    return np.where(enter < leave, enter, np.inf)


def ball(view: View, center: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Depth [H, W] of a ball; infinite beside it."""
    origin, directions = view.rays()
    across = origin - center
    a, b, c = (directions**2).sum(-1), directions @ across, across @ across - radius**2
    inside = b * b - a * c
    return np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)


def seen(*solids: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Depth [H, W] in meters, 0 where nothing is, and the number of the nearest solid; the first, the table, is 0."""
    depths = np.stack(solids)
    nearest = depths.min(axis=0)
    known = np.isfinite(nearest)
    return np.where(known, nearest, 0).astype(np.float32), np.where(known, depths.argmin(axis=0), 0).astype(np.uint16)
