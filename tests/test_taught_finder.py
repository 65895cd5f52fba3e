"""What is found of taught objects, and what is not, on tokens made by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.taught.background import HIGHEST, Background
from dino_ros.taught.click import object_at
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look, look_at

GRID, CHANNELS, SIDE = (12, 16), 24, 8
KINDS = np.linalg.qr(np.random.default_rng(7).normal(size=(CHANNELS, CHANNELS)))[0][:4].astype(np.float32)
"""Directions of what scenes are made of: three backgrounds' shares, and an object."""
OBJECT = (slice(3, 7), slice(5, 10))
"""Where the object of `scene` is, in patches."""


def scene(seed: int, things: list[tuple[tuple[slice, slice], int]]) -> NDArray[np.float32]:
    """Patch tokens [12, 16, 24]: kind 0 with some noise, and other kinds where `things` says."""
    rng = np.random.default_rng(seed)
    kinds = np.zeros(GRID, np.int64)
    for place, kind in things:
        kinds[place] = kind
    noise = rng.normal(size=(*GRID, CHANNELS)) * 0.06
    tokens: NDArray[np.float32] = ((KINDS[kinds] + noise) * rng.uniform(1, 5, (*GRID, 1))).astype(np.float32)
    return tokens


def shown(tokens: NDArray[np.float32], place: tuple[slice, slice], shows_it: bool = True) -> Look:
    mask = np.zeros([side * SIDE for side in GRID], np.uint8)
    rows, columns = (slice(part.start * SIDE, part.stop * SIDE) for part in place)
    mask[rows, columns] = 255
    return look_at(tokens, np.zeros((*mask.shape, 3), np.uint8), mask, shows_it)


@pytest.mark.parametrize(
    ("size", "pixels", "said"), [((40, 60), 5, "Fewer than 16 pixels"), ((40, 50), 500, "of one size")]
)
def test_what_is_no_look_is_refused(size: tuple[int, int], pixels: int, said: str) -> None:
    mask = np.zeros(size, np.uint8)
    mask.flat[:pixels] = 1
    with pytest.raises(UserError, match=said):
        look_at(np.ones((4, 6, 5), np.float32), np.zeros((40, 60, 3), np.uint8), mask)


def test_a_click_takes_what_the_walker_reaches_first() -> None:
    tokens = scene(3, [(OBJECT, 3), ((slice(9, 12), slice(0, 4)), 3), ((slice(0, 2), slice(0, 16)), 1)])
    click = (4, 6)
    part = object_at(tokens, *click)
    expected = np.zeros(GRID, bool)
    expected[OBJECT] = True
    assert (part == expected).all(), "and not the other thing of its kind"


def test_objects_are_found_where_they_are_and_not_where_they_are_not() -> None:
    other = (slice(8, 11), slice(11, 15))
    looks = {"cup": [shown(scene(0, [(OBJECT, 3)]), OBJECT)], "pen": [shown(scene(0, [(other, 2)]), other)]}
    finder = Finder(looks, Background(CHANNELS))
    moved = (slice(1, 4), slice(2, 6))
    found = finder(scene(1, [(moved, 3)]))
    assert found["cup"].score > 0.5 > found["pen"].score
    inside = np.zeros(GRID, bool)
    inside[moved] = True
    assert ((found["cup"].soft > 0.5) == inside).all()
    assert not found["pen"].soft.any()
    nothing = finder(scene(2, [(moved, 1)]))
    assert max(one.score for one in nothing.values()) < 0.5
    assert not any(one.soft.any() for one in nothing.values())


def test_what_is_not_the_object_is_no_longer_taken_for_it() -> None:
    like_it, place = KINDS[3] * 0.95 + KINDS[1] * 0.3, (slice(8, 11), slice(1, 5))
    tokens = scene(4, [(OBJECT, 3)])
    tokens[place] = like_it + np.random.default_rng(0).normal(size=(3, 4, CHANNELS)).astype(np.float32) * 0.02
    right, wrong = shown(scene(0, [(OBJECT, 3)]), OBJECT), shown(tokens, place, shows_it=False)
    assert (Finder({"cup": [right]}, Background(CHANNELS))(tokens)["cup"].soft[place] > 0.5).all()
    soft = Finder({"cup": [right, wrong]}, Background(CHANNELS))(tokens)["cup"].soft
    assert (soft[place] <= 0.5).all()
    assert (soft[OBJECT] > 0.5).all()


def test_an_object_that_is_missed_for_long_is_not_locked_out() -> None:
    background = Background(3)
    before = background.threshold("pen")
    for _ in range(3000):
        background.see(np.ones((9, 3), np.float32), {"cup": 0.99})
    assert background.threshold("cup") == HIGHEST
    assert background.threshold("pen") == before, "each has its own"
