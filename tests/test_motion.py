"""Motion between images that were moved by a known distance."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.masks.motion import JUMP, Motion, MotionEstimator

MARGIN = 12


def textured(height: int = 120, width: int = 160, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def shifted(values: NDArray[np.generic], x: float, y: float) -> NDArray[np.generic]:
    """The image moved right by x and down by y pixels."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return cv2.warpAffine(values, matrix, values.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def motion(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> Motion:
    estimator = MotionEstimator()
    assert estimator(before, 0) is None
    found = estimator(now, 1)
    assert found is not None
    return found


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, 0.0), (0.0, -4.0), (2.5, 1.25), (-6.0, 5.0)])
def test_the_origin_is_where_the_image_was(shift: tuple[float, float]) -> None:
    before = textured()
    found = motion(before, shifted(before, *shift))
    ys, xs = np.mgrid[:120, :160]
    error = found.origin - np.dstack([xs - shift[0], ys - shift[1]])
    inside = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.median(np.abs(error[inside])) < 0.2
    assert np.percentile(np.abs(error[inside]), 95) < 0.7
    assert found.explained[inside].mean() > 0.99


def test_values_and_labels_are_carried_along() -> None:
    before, values = textured(), cv2.GaussianBlur(textured(seed=5)[..., 0].astype(np.float32), (0, 0), 3) / 255
    found = motion(before, shifted(before, 4, -3))
    inside = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(found.carry(values) - shifted(values, 4, -3))[inside].mean() < 0.01
    labels = np.zeros((120, 160), np.uint16)
    labels[30:60, 40:80] = 40_000
    carried = found.carry_labels(labels)
    assert {*np.unique(carried)} == {0, 40_000}
    expected = np.zeros_like(labels)
    expected[27:57, 44:84] = 40_000
    assert (carried != expected).mean() < 0.01


def test_what_is_new_is_not_explained() -> None:
    before = np.full((120, 160, 3), 60, np.uint8)
    now = before.copy()
    now[40:80, 50:90] = 200
    found = motion(before, now)
    assert not found.explained[42:78, 52:88].any()
    assert found.explained[:30].all()
    labels = np.full((120, 160), 7, np.uint16)
    assert not found.carry_labels(labels)[42:78, 52:88].any()
    other = motion(textured(seed=1), textured(seed=2))
    assert other.explained.mean() < 0.5


def test_it_starts_anew_where_a_frame_is_no_continuation() -> None:
    rgb, estimator = textured(), MotionEstimator()
    stamp = 1_700_000_000_000_000_000
    assert estimator(rgb, stamp) is None  # the first
    assert estimator(rgb, stamp + JUMP) is not None
    assert estimator(rgb, stamp + JUMP) is not None  # the same stamp again
    assert estimator(rgb, stamp + 2 * JUMP + 1) is None  # too late
    assert estimator(rgb, stamp) is None  # backwards
    assert estimator(textured(90, 160), stamp + 1) is None  # of another size
    assert estimator(textured(90, 160), stamp + 2) is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 160), (160, 2), (8, 160), (12, 160), (20, 160), (31, 160), (25, 31)])
def test_narrow_images_too(size: tuple[int, int]) -> None:
    rgb = textured(*size)
    found = motion(rgb, rgb)
    ys, xs = np.mgrid[: size[0], : size[1]]
    np.testing.assert_allclose(found.origin, np.dstack([xs, ys]), atol=0.05)
    assert found.explained.all()


def test_a_narrow_image_that_moves() -> None:
    before = textured(20, 160)
    found = motion(before, shifted(before, 3, 0))
    assert np.median(found.origin[4:-4, 20:-20, 0] - np.arange(20, 140)) == pytest.approx(-3, abs=0.3)
