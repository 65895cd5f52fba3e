"""Features and attention as a student could make them, of a scene with an object whose place is known."""

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def render_scene(
    objects: NDArray[np.bool_], seed: int = 0, channels: int = 16, noise: float = 0.3
) -> tuple[Array, Array]:
    """Features [h, w, C] and attention [2, h, w]: one direction for objects [h, w], one for the rest, and noise."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(channels, 2)))[0].T * np.sqrt(channels)
    features = directions[objects.astype(int)] + noise * rng.normal(size=(*objects.shape, channels))
    attention = np.where(objects, 3.0, 1.0) * rng.uniform(0.5, 1.5, (2, *objects.shape))
    return features.astype(np.float32), (attention / attention.sum(axis=(1, 2), keepdims=True)).astype(np.float32)


def rectangle(height: int, width: int, top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    """A mask [height, width] of one rectangle."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def disc(size: tuple[int, int], gray: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A disc on a noisy ground, RGB, and where it is."""
    inside = cv2.circle(np.zeros(size, np.uint8), (size[1] * 9 // 20, size[0] // 2), size[0] // 3, 255, -1) > 0
    colors = np.where(inside[..., None], (150, 150, 150) if gray else (170, 90, 60), (90, 90, 90))
    noisy = colors + np.random.default_rng(0).normal(0, 6, (*size, 1 if gray else 3))
    return noisy.clip(0, 255).astype(np.uint8), inside


def image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)
