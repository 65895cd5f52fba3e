"""A robot's rounds of a rendered hall: views along an ellipse between colored walls, whose poses are known."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pybullet
from numpy.typing import NDArray

HALL = (5.0, 4.0)  # half sizes of the floor, meters
PATH = (3.0, 2.2)  # half axes of the first round, meters
SIZE = (160, 120)  # pixels


class View(NamedTuple):
    """What the camera sees, and from where."""

    rgb: NDArray[np.uint8]
    position: NDArray[np.float64]  # meters
    heading: float  # radians

    def shows_the_place_of(self, other: "View") -> bool:
        """Whether both look at the same stretch of wall, from near one another."""
        turn = (self.heading - other.heading + math.pi) % (2 * math.pi) - math.pi
        return bool(np.linalg.norm(self.position - other.position) < 2.0) and abs(turn) < math.radians(45)


def rounds(count: int, views: int, seed: int) -> Iterator[View]:
    """Drive `count` rounds of a hall, with that many views in each.

    Every round is 10 % wider than the one before it and 15 % darker, and its headings are off by up to 6 degrees.
    """
    rng = np.random.default_rng(seed)
    pybullet.connect(pybullet.DIRECT)
    try:
        _build(rng)
        for number in range(count * views):
            again, angle = number // views, 2 * math.pi * number / views
            along = np.array([math.cos(angle), math.sin(angle)]) * PATH
            position = along * (1 + 0.1 * again)
            heading = math.atan2(PATH[1] * math.cos(angle), -PATH[0] * math.sin(angle))
            heading += math.radians(rng.uniform(-6, 6)) * (again > 0)
            ahead = position + np.array([math.cos(heading), math.sin(heading)])
            rgba = pybullet.getCameraImage(
                *SIZE,
                pybullet.computeViewMatrix((*position, 0.8), (*ahead, 0.75), (0, 0, 1)),
                pybullet.computeProjectionMatrixFOV(60, SIZE[0] / SIZE[1], 0.05, 20),
                shadow=0,
                renderer=pybullet.ER_TINY_RENDERER,
            )[2]
            rgb = np.reshape(rgba, (SIZE[1], SIZE[0], 4))[..., :3] * 0.85**again
            noisy = np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)
            yield View(noisy, position, heading)
    finally:
        pybullet.disconnect()


def _build(rng: np.random.Generator) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def box(half: tuple[float, ...], at: tuple[float, ...]) -> None:
            shape = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=half)
            body = pybullet.createMultiBody(baseVisualShapeIndex=shape, basePosition=at)
            path = Path(folder) / f"{body}.png"
            cv2.imwrite(str(path), _picture(rng))
            pybullet.changeVisualShape(
                body, -1, textureUniqueId=pybullet.loadTexture(str(path)), rgbaColor=(1, 1, 1, 1)
            )

        box((*HALL, 0.02), (0, 0, 0))
        for side in (-1, 1):
            for x in np.arange(0.5 - HALL[0], HALL[0]):
                box((0.5, 0.05, 1.2), (x, side * HALL[1], 1.2))
            for y in np.arange(0.5 - HALL[1], HALL[1]):
                box((0.05, 0.5, 1.2), (side * HALL[0], y, 1.2))
        for angle in np.linspace(0, 2 * math.pi, 14, endpoint=False):
            half = rng.uniform(0.2, 0.5, 3)
            x, y = rng.choice([0.3, 1.0]) * np.array([4.3 * math.cos(angle), 3.3 * math.sin(angle)])
            box(tuple(half), (x, y, half[2]))


def _picture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """What hangs on a wall: rectangles and ellipses on one color."""
    image = np.full((256, 256, 3), rng.integers(60, 230, 3), np.uint8)
    for _ in range(rng.integers(3, 9)):
        color = rng.integers(0, 256, 3).tolist()
        corner, size = rng.integers(0, 256, 2), rng.integers(20, 140, 2)
        if rng.random() < 0.5:
            cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), color, -1 if rng.random() < 0.7 else 6)
        else:
            cv2.ellipse(image, corner.tolist(), (size // 2).tolist(), rng.uniform(0, 180), 0, 360, color, -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
