"""Looks, clicks and the finder against independent computations, on tokens made by hand."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.taught.background import HIGHEST, MEMORY, RARE, SPREAD, TRUST, USUAL, Background
from dino_ros.taught.click import DECAY, REACHED, UNLIKE, object_at
from dino_ros.taught.finder import SHRINKAGE, Finder
from dino_ros.taught.looks import INSIDE, Look, look_at, prototypes, unit

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


def test_a_look_has_the_tokens_of_patches_that_are_mostly_covered() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, 6, 5)).astype(np.float32)
    mask = cv2.GaussianBlur(rng.random((40, 60)), (0, 0), 6) > 0.5
    look = look_at(tokens, np.zeros((40, 60, 3), np.uint8), mask.astype(np.uint8))
    inside, outside = [], []
    for row in range(4):
        for column in range(6):
            share = mask[10 * row : 10 * row + 10, 10 * column : 10 * column + 10].mean()
            token = tokens[row, column] / np.linalg.norm(tokens[row, column])
            if share >= 0.5:
                inside.append(token)
            if share <= 0.02:
                outside.append(token)
    assert inside
    np.testing.assert_allclose(look.inside.tokens, inside, rtol=1e-5)
    np.testing.assert_allclose(look.outside.tokens, np.reshape(outside, (-1, 5)), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "pixels", "said"), [((40, 60), 5, "Fewer than 16 pixels"), ((40, 50), 500, "of one size")]
)
def test_what_is_no_look_is_refused(size: tuple[int, int], pixels: int, said: str) -> None:
    mask = np.zeros(size, np.uint8)
    mask.flat[:pixels] = 1
    with pytest.raises(UserError, match=said):
        look_at(np.ones((4, 6, 5), np.float32), np.zeros((40, 60, 3), np.uint8), mask)


def test_prototypes_stand_for_their_tokens_as_well_as_those_of_another_implementation() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    tokens = unit(np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32))
    ours = prototypes(tokens, INSIDE)
    theirs = cluster.KMeans(INSIDE, n_init=1, random_state=0).fit(tokens).cluster_centers_
    assert ours.weights.sum() == pytest.approx(1)
    assert nearest(tokens, ours.tokens) > 0.97 * nearest(tokens, unit(theirs.astype(np.float32)))


def nearest(tokens: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    return float((tokens @ centers.T).max(axis=1).mean())


def test_a_click_takes_what_the_walker_reaches_first() -> None:
    tokens = scene(3, [(OBJECT, 3), ((slice(9, 12), slice(0, 4)), 3), ((slice(0, 2), slice(0, 16)), 1)])
    click = (4, 6)
    part = object_at(tokens, *click)
    expected = np.zeros(GRID, bool)
    expected[OBJECT] = True
    assert (part == expected).all(), "and not the other thing of its kind"
    assert (part == walker(tokens, click)).all()
    noisy = tokens + np.random.default_rng(1).normal(size=tokens.shape).astype(np.float32)
    assert (object_at(noisy, *click) == walker(noisy, click)).mean() > 0.98


def walker(tokens: NDArray[np.float32], click: tuple[int, int]) -> NDArray[Any]:
    """The random walker's linear system (Grady 2006, equation 9), solved directly in float64."""
    rows, columns, _ = tokens.shape
    vectors = tokens.astype(np.float64) / np.linalg.norm(tokens.astype(np.float64), axis=-1, keepdims=True)
    places = [(y, x) for y in range(rows) for x in range(columns)]
    index = {place: number for number, place in enumerate(places)}
    edges = {
        (index[y, x], index[y + dy, x + dx]): 1 - vectors[y, x] @ vectors[y + dy, x + dx]
        for y, x in places
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))
        if (y + dy, x + dx) in index
    }
    usual = np.median([*edges.values()])
    laplacian = np.zeros((len(places), len(places)))
    for (one, other), difference in edges.items():
        ease = np.exp(-DECAY * difference / usual)
        laplacian[one, other] -= ease
        laplacian[other, one] -= ease
        laplacian[one, one] += ease
        laplacian[other, other] += ease
    like = (vectors @ vectors[click]).ravel()
    fixed = like < np.quantile(like, UNLIKE)
    fixed[index[click]] = True
    seeds = np.zeros(len(places))
    seeds[index[click]] = 1
    free = ~fixed
    reached = seeds.copy()
    reached[free] = np.linalg.solve(laplacian[np.ix_(free, free)], -laplacian[np.ix_(free, fixed)] @ seeds[fixed])
    _, parts = cv2.connectedComponents((reached.reshape(rows, columns) > REACHED).astype(np.uint8), connectivity=4)
    return parts == parts[click]


def test_the_outline_is_that_of_a_weighted_ridge_regression() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    looks = [shown(scene(0, [(OBJECT, 3)]), OBJECT), shown(scene(1, [(OBJECT, 2)]), OBJECT, shows_it=False)]
    finder = Finder({"cup": looks}, Background(CHANNELS))
    parts = [
        (looks[0].inside, 1, 0.5),
        (looks[0].outside, 0, 0.25 / 2),
        (looks[1].inside, 0, 0.5 / 2),
        (looks[1].outside, 0, 0.25 / 2),
    ]
    tokens = np.concatenate([of.tokens for of, _, _ in parts]).astype(np.float64)
    weights = np.concatenate([of.weights * weight for of, _, weight in parts])
    target = np.concatenate([np.full(len(of.tokens), y) for of, y, _ in parts])
    mean = weights @ tokens
    spread = (weights[:, None] * (tokens - mean) ** 2).sum() / CHANNELS
    ridge = linear.Ridge(alpha=SHRINKAGE * spread).fit(tokens, target, sample_weight=weights)
    scores = ridge.predict(tokens)
    high, low = (np.average(scores[target == y], weights=weights[target == y]) for y in (1, 0))
    queries = scene(2, [(OBJECT, 3), ((slice(0, 2), slice(0, 3)), 2)]).reshape(-1, CHANNELS)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    expected = (ridge.predict(queries) - low) / (high - low)
    found = finder(queries.reshape(*GRID, CHANNELS))["cup"]
    inside = np.zeros(GRID, bool)
    inside[OBJECT] = True
    np.testing.assert_allclose(found.soft[inside], np.clip(expected.reshape(GRID)[inside], 0, 1), atol=1e-4)
    np.testing.assert_allclose(found.similarity.ravel(), (queries @ looks[0].inside.tokens.T).max(axis=1), atol=1e-5)


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


def test_the_threshold_follows_what_the_camera_sees() -> None:
    background, values = Background(3), np.random.default_rng(0).normal(0.7, 0.02, 300).tolist()
    assert background.threshold("cup") == pytest.approx(USUAL + RARE * SPREAD)
    for value in values:
        background.see(np.ones((9, 3), np.float32), {"cup": value})
    weights = (1 - 1 / MEMORY) ** np.arange(len(values))[::-1]
    total = TRUST + weights.sum()
    mean = (TRUST * USUAL + weights @ values) / total
    square = (TRUST * (SPREAD**2 + USUAL**2) + weights @ np.square(values)) / total
    assert background.threshold("cup") == pytest.approx(mean + RARE * np.sqrt(square - mean**2))
    for _ in range(3000):
        background.see(np.ones((9, 3), np.float32), {"cup": 0.99})
    assert background.threshold("cup") == HIGHEST
    assert background.threshold("pen") == pytest.approx(USUAL + RARE * SPREAD)
