"""The boundary measure against a literal version of its definition, pixel by pixel."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from outlines import blob, slow_boundary, slow_f

from dino_train.evaluation.segmentation.boundary import boundary, boundary_f


@pytest.mark.parametrize("shape", [(48, 64), (61, 37), (1, 40), (40, 1)])
def test_the_boundary_is_that_of_a_loop_over_pixels(shape: tuple[int, int]) -> None:
    mask = blob(np.random.default_rng(0), shape, 2.0)
    expected = np.zeros(shape, np.uint8)
    for pixel in slow_boundary(mask):
        expected[pixel] = 1
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(boundary(mask), expected)


@pytest.mark.parametrize("tolerance", [0.008, 0.03, 0.05])
def test_f_is_that_of_a_loop_over_pixels(tolerance: float) -> None:
    rng = np.random.default_rng(1)
    found, expected = [], []
    for shape, smooth in [((48, 64), 3.0), ((33, 50), 1.0)]:
        truth = blob(rng, shape, smooth)
        for mask in (truth, np.roll(truth, 2, axis=1), np.roll(truth, -5, axis=0), blob(rng, shape, 3.0)):
            found.append(boundary_f(mask, truth, tolerance))
            expected.append(slow_f(mask, truth, tolerance))
    assert len(set(expected)) > 4, "the cases differ"
    assert found == pytest.approx(expected)


def test_the_distance_is_rounded_up_and_included() -> None:
    truth, mask = np.zeros((2, 480, 640), dtype=bool)
    truth[:, 300:] = True
    for shift, expected in ((7, 1.0), (8, 0.0)):  # 0.008 times the diagonal of 800 is 6.4
        mask[:] = False
        mask[:, 300 + shift :] = True
        assert boundary_f(mask, truth) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("none", "none", 1.0),
        ("none", "all", 1.0),
        ("none", "some", 0.0),
        ("some", "none", 0.0),
        ("all", "some", 0.0),
        ("far", "some", 0.0),
    ],
)
def test_empty_boundaries(ours: str, theirs: str, expected: float) -> None:
    masks = {name: np.zeros((40, 60), dtype=bool) for name in ("none", "all", "some", "far")}
    masks["all"][:] = True
    masks["some"][4:9, 5:12] = True
    masks["far"][30:35, 40:52] = True
    assert boundary_f(masks[ours], masks[theirs]) == expected == slow_f(masks[ours], masks[theirs])
