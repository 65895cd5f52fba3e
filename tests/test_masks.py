"""The paper's mask and what is done to masks of yes and no, against slow references in float64."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.masks.attention import attention_mask, keep_mass
from dino_ros.masks.binary import jaccard, largest_components, upsample_mask
from dino_ros.masks.parameters import MaskParameters


def slow_keep_mass(attention: NDArray[np.float32], keep: float) -> NDArray[np.bool_]:
    """Take the strongest patch left until the share is reached."""
    left = attention.astype(np.float64)
    mask = np.zeros(attention.shape, dtype=bool)
    while left[mask].size == 0 or attention.astype(np.float64)[mask].sum() < keep * attention.astype(np.float64).sum():
        rest = np.where(mask, -1.0, left)
        mask[np.unravel_index(rest.argmax(), rest.shape)] = True
    return mask


@pytest.mark.parametrize("keep", [0.05, 0.6, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_keep_mass_is_the_smallest_set(seed: int, keep: float) -> None:
    attention = np.random.default_rng(seed).gamma(0.3, size=(9, 13)).astype(np.float32)
    mask = keep_mass(attention, keep)
    np.testing.assert_array_equal(mask, slow_keep_mass(attention, keep))
    values = attention.astype(np.float64)
    assert values[mask].sum() >= keep * values.sum()
    assert values[mask].sum() - values[mask].min() < keep * values.sum()


def test_keep_mass_at_its_ends() -> None:
    attention = np.array([[0.5, 0.25], [0.25, 0.0]], np.float32)
    np.testing.assert_array_equal(keep_mass(attention, 0.5), [[True, False], [False, False]])
    np.testing.assert_array_equal(keep_mass(attention, 0.6), [[True, True], [False, False]])  # of equals the first
    np.testing.assert_array_equal(keep_mass(attention, 1.0), [[True, True], [True, False]])
    assert not keep_mass(np.zeros((2, 2), np.float32), 0.6).any()
    assert keep_mass(np.full((50, 50), 0.1, np.float32), 1.0).all()


def test_head_and_mean_of_heads() -> None:
    attention = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)
    for head in range(3):
        mask = attention_mask(attention, 0.3, head)
        np.testing.assert_array_equal(mask, slow_keep_mass(attention[head], 0.3))
    mean = attention.mean(axis=0)
    np.testing.assert_array_equal(attention_mask(attention, 0.3), slow_keep_mass(mean, 0.3))
    with pytest.raises(UserError, match="mask_attention_head is 3, but the student has the heads 0 to 2"):
        attention_mask(attention, head=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_attention_that_is_not_finite_is_refused(value: float) -> None:
    attention = np.ones((2, 3, 4), np.float32)
    attention[0, 1, 1] = value
    with pytest.raises(UserError, match="not finite"):
        attention_mask(attention)


def flood(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """8-connected parts, by flooding."""
    parts, seen = [], set()
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        part, edge = set(), [start]
        while edge:
            y, x = edge.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and mask[y, x] and (y, x) not in part:
                part.add((y, x))
                edge += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        seen |= part
        parts.append(part)
    return parts


@pytest.mark.parametrize("count", [1, 2, 100])
def test_largest_components(count: int) -> None:
    mask = np.random.default_rng(4).random((12, 16)) < 0.25
    parts = flood(mask)
    kept = largest_components(mask, count)
    sizes = sorted((len(part) for part in parts), reverse=True)[:count]
    assert kept.sum() == sum(sizes)
    assert all(kept[y, x] == kept[next(iter(part))] for part in parts for y, x in part)
    assert not largest_components(np.zeros((3, 3), bool), count).any()


def test_upsampled_mask_keeps_resolution_and_area() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    image = upsample_mask(mask, 480, 640)
    assert image.shape == (480, 640)
    assert set(np.unique(image)) == {0, 255}
    nearest = cv2.resize(mask.astype(np.uint8) * 255, (640, 480), interpolation=cv2.INTER_NEAREST)
    assert (image != nearest).mean() < 0.01  # only the corners are rounded
    assert image[241, 360] == 255
    assert image[160, 240] == 0  # a corner of the patches, rounded off
    assert image[0, 0] == 0


def test_jaccard() -> None:
    left, right = np.zeros((2, 4, 4), bool)
    assert jaccard(left, right) == 1
    left[:2], right[1:3] = True, True
    assert jaccard(left, right) == pytest.approx(4 / 12)
    assert jaccard(left, ~left) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"method": "guess"},
        {"attention_mass": 0.009},
        {"attention_mass": 1.001},
        {"attention_mass": float("nan")},
        {"attention_head": -2},
        {"attention_head": 64},
        {"components": -1},
        {"steady": -0.001},
        {"steady": 0.951},
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(UserError, match=rf"mask_{name} is {value!r}"):
        MaskParameters(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"attention_mass": 0.01, "attention_head": -1, "components": 0, "steady": 0.0},
        {"attention_mass": 1.0, "attention_head": 63, "components": 1000, "steady": 0.95},
    ],
)
def test_parameters_at_their_bounds_are_taken(values: dict[str, Any]) -> None:
    assert all(getattr(MaskParameters(**values), name) == value for name, value in values.items())
