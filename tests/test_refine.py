"""The guided filter against its equations in float64, and masks that must follow an image's edges."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import disc

from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.masks.refine import ENOUGH, EPSILON, FLAT, guided_coefficients, refine


def image(height: int, width: int, seed: int = 0, blur: float = 2) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX)


def slow_guided_coefficients(
    soft: NDArray[np.float32], guide: NDArray[np.uint8], radii: tuple[int, int], epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """He et al. 2010, equations 14 and 15, and the means of equation 16; the image is mirrored beyond its edge.

    Also the share of the variance that the slopes explain, see `guided_coefficients`.
    """
    height, width = soft.shape
    pad = ((radii[0], radii[0]), (radii[1], radii[1]))
    colors = np.pad(guide / 255.0, (*pad, (0, 0)), mode="reflect")
    values = np.pad(soft.astype(np.float64), pad, mode="reflect")
    each = np.zeros((height, width, 6))
    for y in range(height):
        for x in range(width):
            window = np.s_[y : y + 2 * radii[0] + 1, x : x + 2 * radii[1] + 1]
            inside, p = colors[window].reshape(-1, 3), values[window].ravel()
            mean = inside.mean(axis=0)
            covariance = np.cov(inside.T, bias=True) + epsilon * np.eye(3)
            together = (inside * p[:, None]).mean(axis=0) - mean * p.mean()
            a = np.linalg.solve(covariance, together)
            each[y, x] = [*a, p.mean() - a @ mean, a @ together, p.var()]
    mirrored = np.pad(each, (*pad, (0, 0)), mode="reflect")
    means = np.zeros((height, width, 6))
    for y in range(height):
        for x in range(width):
            window = mirrored[y : y + 2 * radii[0] + 1, x : x + 2 * radii[1] + 1]
            means[y, x] = window.reshape(-1, 6).mean(axis=0)
    return means[..., :4], np.minimum(means[..., 4] / np.maximum(ENOUGH * means[..., 5], FLAT), 1)


@pytest.mark.parametrize("radii", [(1, 1), (4, 2), (3, 5)])
@pytest.mark.parametrize("epsilon", [EPSILON, 0.05])
@pytest.mark.parametrize("gray", [False, True])
def test_the_coefficients_are_those_of_the_equations(radii: tuple[int, int], epsilon: float, gray: bool) -> None:
    guide = image(17, 22)
    if gray:
        guide = np.repeat(guide[..., :1], 3, axis=2)
    soft = np.random.default_rng(1).random((17, 22)).astype(np.float32)
    for made, expected in zip(
        guided_coefficients(soft, guide, radii, epsilon),
        slow_guided_coefficients(soft, guide, radii, epsilon),
        strict=True,
    ):
        np.testing.assert_allclose(made, expected, atol=2e-3)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [(240, 320), (301, 407)])
@pytest.mark.parametrize("grid", [(7, 9), (14, 14)])
def test_masks_go_to_the_edges_of_the_image(size: tuple[int, int], grid: tuple[int, int], gray: bool) -> None:
    rgb, inside = disc(size, gray)
    small = cv2.resize(rgb, (160, 120), interpolation=cv2.INTER_AREA)
    patches = cv2.resize(inside.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    soft = cv2.resize((patches > 0.3).astype(np.float32), (160, 120))
    coarse = cv2.resize(soft, size[::-1]) > 0.5
    mask = refine(soft, small, rgb, (120 / grid[0], 160 / grid[1]))
    assert mask.shape == size
    assert mask.dtype == np.float32
    refined = jaccard(mask > 0.5, inside)
    assert refined > 0.97
    assert 1 - refined < (1 - jaccard(coarse, inside)) / 3


def test_without_edges_the_soft_mask_decides() -> None:
    soft = np.zeros((40, 60), np.float32)
    soft[:, :30] = 1
    flat = np.full((80, 120, 3), 77, np.uint8)
    mask = refine(soft, flat[::2, ::2], flat, (5.0, 5.0))
    assert (mask[:, :58] > 0.5).all()
    assert (mask[:, 62:] < 0.5).all()
    np.testing.assert_allclose(refine(np.zeros_like(soft), image(40, 60), image(80, 120), (5.0, 5.0)), 0, atol=1e-4)
    np.testing.assert_allclose(refine(np.ones_like(soft), image(40, 60), image(80, 120), (5.0, 5.0)), 1, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3)])
def test_images_of_a_pixel_or_a_line(size: tuple[int, int]) -> None:
    for value in (0, 1):
        soft = np.full(size, value, np.float32)
        rgb = image(*size, blur=1)
        np.testing.assert_allclose(refine(soft, rgb, rgb, (0.5, 0.5)), np.full(size, value), atol=1e-4)


def overlaps(scenes: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]], grid: tuple[int, int]) -> dict[bool, float]:
    """Mean IoU of masks that are right on the patch grid, refined and not, with the truth."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for rgb, truth in scenes:
        patches = cv2.resize(truth.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
        for refined, ious in found.items():
            parameters = MaskParameters("foreground", refine=refined, steady=0.0)
            mask = MaskMaker()({"foreground": patches}, truth.shape, rgb, 0, parameters).mask
            ious.append(jaccard(mask > 0, truth))
    return {refined: float(np.mean(ious)) for refined, ious in found.items()}


def hidden(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An ellipse of the ground's own colors, and a wide image squashed to a square grid."""
    rng = np.random.default_rng(seed)
    size = (480, 854)
    center = (int(rng.integers(200, 654)), int(rng.integers(150, 330)))
    axes = (int(rng.integers(40, 150)), int(rng.integers(30, 120)))
    inside = cv2.ellipse(np.zeros(size, np.uint8), center, axes, int(rng.integers(180)), 0, 360, 255, -1) > 0
    return image(*size, seed=seed, blur=6), inside


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (32, 32)])
def test_good_masks_stay_good_where_no_edge_shows_the_object(grid: tuple[int, int]) -> None:
    found = overlaps((hidden(seed) for seed in range(12)), grid)
    assert found[True] > found[False] - 0.05


@pytest.mark.parametrize("grid", [(16, 16), (32, 32)])
@pytest.mark.parametrize(("folder", "masks", "step"), [("davis2016", "masks", 6), ("coco_objects", "instances", 3)])
def test_good_masks_stay_good_on_photographs(
    test_data: Path, folder: str, masks: str, step: int, grid: tuple[int, int]
) -> None:
    files = sorted((test_data / folder / "images").rglob("*.jpg"))[::step]
    assert len(files) > 15
    truth = test_data / folder / masks
    found = overlaps(
        (
            (
                cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB),
                cv2.imread(str(truth / file.relative_to(truth.parent / "images").with_suffix(".png")), -1) > 0,
            )
            for file in files
        ),
        grid,
    )
    assert found[True] > found[False] - 0.03
