"""Rendered images of a few kinds of objects: small data that a short run must learn something from."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = 4


def render_shape(kind: int, rng: np.random.Generator, size: int = 48) -> NDArray[np.uint8]:
    """Render a disc, square, cross or ring, each in its own hue, on noise: RGB [size, size, 3]."""
    ground = rng.normal(90, 12, (size, size, 3))
    hue = 20 + kind * 40 + rng.uniform(-10, 10)
    color = cv2.cvtColor(np.array([[[hue, 220, 230]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    center = tuple(int(v) for v in rng.integers(size * 0.4, size * 0.6, 2))
    radius = int(rng.integers(size * 0.22, size * 0.32))
    image = np.ascontiguousarray(ground.clip(0, 255).astype(np.uint8))
    if kind == 0:
        cv2.circle(image, center, radius, color, -1)
    elif kind == 1:
        corner = tuple(c - radius for c in center)
        cv2.rectangle(image, corner, tuple(c + radius for c in center), color, -1)
    elif kind == 2:
        cv2.drawMarker(image, center, color, cv2.MARKER_CROSS, 2 * radius, size // 8)
    else:
        cv2.circle(image, center, radius, color, size // 10)
    return image


def write_shapes(folder: Path, count: int) -> Path:
    """Write `count` images of the kinds in turn; return the folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:04d}.png"), render_shape(number % KINDS, rng)[:, :, ::-1])
    return folder
