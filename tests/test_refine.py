"""The guided filter against its equations in float64, and masks that must follow an image's edges."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import disc

from dino_ros.masks.binary import jaccard
from dino_ros.masks.refine import EPSILON, guided_coefficients, refine


def image(height: int, width: int, seed: int = 0, blur: float = 2) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX)


def slow_guided_coefficients(
    soft: NDArray[np.float32], guide: NDArray[np.uint8], radius: int, epsilon: float
) -> NDArray[np.float64]:
    """He et al. 2010, equations 14 and 15, and the means of equation 16; the image is mirrored beyond its edge."""
    height, width = soft.shape
    pad = ((radius, radius), (radius, radius))
    colors = np.pad(guide / 255.0, (*pad, (0, 0)), mode="reflect")
    values = np.pad(soft.astype(np.float64), pad, mode="reflect")
    each = np.zeros((height, width, 4))
    for y in range(height):
        for x in range(width):
            window = np.s_[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
            inside, p = colors[window].reshape(-1, 3), values[window].ravel()
            mean = inside.mean(axis=0)
            covariance = np.cov(inside.T, bias=True) + epsilon * np.eye(3)
            a = np.linalg.solve(covariance, (inside * p[:, None]).mean(axis=0) - mean * p.mean())
            each[y, x] = [*a, p.mean() - a @ mean]
    mirrored = np.pad(each, (*pad, (0, 0)), mode="reflect")
    return np.array(
        [
            [mirrored[y : y + 2 * radius + 1, x : x + 2 * radius + 1].reshape(-1, 4).mean(axis=0) for x in range(width)]
            for y in range(height)
        ]
    )


@pytest.mark.parametrize("radius", [1, 4])
@pytest.mark.parametrize("epsilon", [EPSILON, 0.05])
@pytest.mark.parametrize("gray", [False, True])
def test_the_coefficients_are_those_of_the_equations(radius: int, epsilon: float, gray: bool) -> None:
    guide = image(17, 22)
    if gray:
        guide = np.repeat(guide[..., :1], 3, axis=2)
    soft = np.random.default_rng(1).random((17, 22)).astype(np.float32)
    expected = slow_guided_coefficients(soft, guide, radius, epsilon)
    np.testing.assert_allclose(guided_coefficients(soft, guide, radius, epsilon), expected, atol=2e-3)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [(240, 320), (301, 407)])
@pytest.mark.parametrize("grid", [(7, 9), (14, 14)])
def test_masks_go_to_the_edges_of_the_image(size: tuple[int, int], grid: tuple[int, int], gray: bool) -> None:
    rgb, inside = disc(size, gray)
    small = cv2.resize(rgb, (160, 120), interpolation=cv2.INTER_AREA)
    patches = cv2.resize(inside.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    soft = cv2.resize((patches > 0.3).astype(np.float32), (160, 120))
    coarse = cv2.resize(soft, size[::-1]) > 0.5
    mask = refine(soft, small, rgb, 160 / grid[1])
    assert mask.shape == size
    assert mask.dtype == np.float32
    refined = jaccard(mask > 0.5, inside)
    assert refined > 0.97
    assert 1 - refined < (1 - jaccard(coarse, inside)) / 3


def test_without_edges_the_soft_mask_decides() -> None:
    soft = np.zeros((40, 60), np.float32)
    soft[:, :30] = 1
    flat = np.full((80, 120, 3), 77, np.uint8)
    mask = refine(soft, flat[::2, ::2], flat, 5.0)
    assert (mask[:, :58] > 0.5).all()
    assert (mask[:, 62:] < 0.5).all()
    np.testing.assert_allclose(refine(np.zeros_like(soft), image(40, 60), image(80, 120), 5.0), 0, atol=1e-4)
    np.testing.assert_allclose(refine(np.ones_like(soft), image(40, 60), image(80, 120), 5.0), 1, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3)])
def test_images_of_a_pixel_or_a_line(size: tuple[int, int]) -> None:
    for value in (0, 1):
        soft = np.full(size, value, np.float32)
        rgb = image(*size, blur=1)
        np.testing.assert_allclose(refine(soft, rgb, rgb, 0.5), np.full(size, value), atol=1e-4)
