"""The parts of finding what was shown, each against an independent reference in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.taught import background as background_module
from dino_ros.taught.background import Background
from dino_ros.taught.click import DECAY, REACHED, UNLIKE, object_at
from dino_ros.taught.finder import SHRINKAGE, Finder
from dino_ros.taught.looks import CLEAR, HALF, Look, Prototypes, look_at, prototypes


def blobs(rng: np.random.Generator, count: int, channels: int, centers: int) -> NDArray[np.float32]:
    """Unit tokens [count, channels] around some centers."""
    directions = rng.normal(size=(centers, channels))[rng.integers(centers, size=count)]
    tokens = directions + 0.3 * rng.normal(size=(count, channels))
    return (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)


def rows_of(tokens: NDArray[np.float32]) -> set[bytes]:
    return {row.tobytes() for row in tokens}


def test_a_patch_is_the_objects_by_the_share_that_it_covers() -> None:
    rng = np.random.default_rng(0)
    features = blobs(rng, 12, 5, 3).reshape(3, 4, 5)
    mask = np.zeros((31, 41), np.uint8)  # patches of 10 1/3 by 10 1/4 pixels
    mask[4:22, 9:26] = 1
    inside, outside = set(), set()
    for row in range(3):
        for column in range(4):
            covered = 0.0
            for y, x in np.argwhere(mask):
                height = min(y + 1, (row + 1) * 31 / 3) - max(y, row * 31 / 3)
                width = min(x + 1, (column + 1) * 41 / 4) - max(x, column * 41 / 4)
                covered += max(height, 0) * max(width, 0)
            share = covered / (31 / 3 * 41 / 4)
            assert min(abs(share - HALF), abs(share - CLEAR)) > 1e-3, "too close to call"
            inside |= {features[row, column].tobytes()} if share >= HALF else set()
            outside |= {features[row, column].tobytes()} if share <= CLEAR else set()
    look = look_at(features, np.zeros((31, 41, 3), np.uint8), mask)
    assert len(inside) in range(2, 12)
    assert len(outside) in range(2, 12)
    assert len(look.inside.tokens) == len(inside)
    for found, expected in ((look.inside, inside), (look.outside, outside)):
        wanted = np.array(sorted(np.frombuffer(row, np.float32).tolist() for row in expected))
        np.testing.assert_allclose(sorted(found.tokens.tolist()), wanted, atol=1e-6)
        np.testing.assert_allclose(found.weights, 1 / len(expected), rtol=1e-6)


def test_an_object_smaller_than_a_patch_is_the_patch_that_has_most_of_it() -> None:
    features = np.eye(4, dtype=np.float32).reshape(2, 2, 4)
    mask = np.zeros((40, 40), np.uint8)
    mask[17:23, 24:28] = 255  # 3 rows in each of the right patches; one more below
    mask[23, 24:28] = 255
    look = look_at(features, np.zeros((40, 40, 3), np.uint8), mask)
    np.testing.assert_array_equal(look.inside.tokens, features[1, 1][None])
    with pytest.raises(UserError, match="Fewer than 16 pixels"):
        look_at(features, np.zeros((40, 40, 3), np.uint8), np.eye(40, dtype=np.uint8)[:, :40] * 0)
    with pytest.raises(UserError, match="of one size"):
        look_at(features, np.zeros((40, 41, 3), np.uint8), mask)


def test_prototypes_stand_for_their_tokens_as_well_as_those_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    tokens = blobs(np.random.default_rng(0), 400, 16, 40)
    found = prototypes(tokens, 32)
    assert len(found.tokens) <= 32
    np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.tokens, axis=1), 1, rtol=1e-5)
    reference = cluster.KMeans(32, n_init=1, random_state=0).fit(tokens.astype(np.float64))
    centers = reference.cluster_centers_ / np.linalg.norm(reference.cluster_centers_, axis=1, keepdims=True)
    ours, theirs = (((1 - (tokens @ of.T).max(axis=1)).mean()) for of in (found.tokens, centers))
    assert ours < 1.25 * theirs
    again = prototypes(tokens, 32)
    np.testing.assert_array_equal(found.tokens, again.tokens)


def test_a_click_reaches_what_the_walkers_linear_system_says() -> None:
    rng = np.random.default_rng(3)
    rows, columns = 9, 11
    features = rng.normal(size=8) + 0.5 * rng.normal(size=(rows, columns, 8))
    features[2:6, 3:9] += 3 * rng.normal(size=8)
    click = (4, 6)
    tokens = features / np.linalg.norm(features, axis=-1, keepdims=True)
    like = tokens @ tokens[click]
    background = like < np.quantile(like, UNLIKE)
    pairs = [
        ((y, x), (y + down, x + right), 1 - tokens[y, x] @ tokens[y + down, x + right])
        for y in range(rows)
        for x in range(columns)
        for down, right in ((1, 0), (0, 1), (1, 1), (1, -1))
        if y + down < rows and 0 <= x + right < columns
    ]
    usual = np.median([difference for _, _, difference in pairs])
    laplacian = np.zeros((rows * columns, rows * columns))
    for (y, x), (v, u), difference in pairs:
        one, other, weight = y * columns + x, v * columns + u, np.exp(-DECAY * difference / usual)
        laplacian[[one, other], [one, other]] += weight
        laplacian[[one, other], [other, one]] -= weight
    value = np.zeros(rows * columns)
    start = click[0] * columns + click[1]
    value[start] = 1
    free = ~background.ravel()
    free[start] = False
    value[free] = np.linalg.solve(laplacian[np.ix_(free, free)], -laplacian[free] @ value)
    reached = (value > REACHED).reshape(rows, columns)
    assert np.abs(value[free] - REACHED).min() > 0.01, "too close to call"
    expected, waiting = np.zeros_like(reached), [click]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < rows and 0 <= x < columns and reached[y, x] and not expected[y, x]:
            expected[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    found = object_at(features.astype(np.float32), *click)
    assert 1 < expected.sum() < rows * columns
    np.testing.assert_array_equal(found, expected)


def test_the_outline_is_a_weighted_ridge_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    channels = 12
    picture, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)

    def made(inside: int, outside: int, shows_it: bool = True) -> Look:
        parts = [
            Prototypes(blobs(rng, n, channels, 2), rng.dirichlet(np.ones(n)).astype(np.float32))
            for n in (inside, outside)
        ]
        return Look(picture, mask, parts[0], parts[1], shows_it)

    looks = {"cup": [made(5, 9), made(7, 8), made(3, 6, shows_it=False)], "pen": [made(4, 10)]}
    background = Background(channels)
    background.see(blobs(rng, 40, channels, 5), {"cup": 0.5, "pen": 0.4})
    tokens, weights, numbers = [], [], []
    for number, of_one in enumerate(looks.values()):
        for look in of_one:
            alike = sum(other.shows_it == look.shows_it for other in of_one)
            tokens += [look.inside.tokens, look.outside.tokens]
            weights += [look.inside.weights / alike, look.outside.weights / len(of_one)]
            numbers += [number if look.shows_it else -1] * len(look.inside.tokens) + [-1] * len(look.outside.tokens)
    examples, of = np.concatenate(tokens).astype(np.float64), np.array(numbers)
    weight = np.concatenate(weights).astype(np.float64)
    weight[of >= 0] *= 0.5 / weight[of >= 0].sum()
    weight[of < 0] *= 0.25 / weight[of < 0].sum()
    seen = background.tokens.astype(np.float64)
    examples, of = np.concatenate([examples, seen]), np.append(of, np.full(len(seen), -1))
    weight = np.append(weight, np.full(len(seen), 0.25 / len(seen)))
    mean = weight @ examples
    alpha = SHRINKAGE * (weight @ ((examples - mean) ** 2)).mean()
    probe = blobs(rng, 30, channels, 4).reshape(5, 6, channels)
    finder = Finder(looks, background)
    outlines = probe.reshape(-1, channels) @ finder._directions + finder._offsets
    for number in range(2):
        own = (of == number).astype(np.float64)
        ridge = linear_model.Ridge(alpha=alpha).fit(examples, own, sample_weight=weight)
        scores = ridge.predict(examples)
        high, low = (np.average(scores[part], weights=weight[part]) for part in (own == 1, own == 0))
        expected = (ridge.predict(probe.reshape(-1, channels)) - low) / (high - low)
        np.testing.assert_allclose(outlines[:, number], expected, atol=2e-3)


def test_an_object_that_fills_the_only_image_is_not_found_everywhere() -> None:
    """There is nothing to tell it from; without an error, and without a number that is none."""
    full = look_at(np.ones((2, 2, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8))
    found = Finder({"cup": [full]}, Background(3))(np.eye(3, dtype=np.float32)[:2].reshape(1, 2, 3))["cup"]
    assert np.isfinite(found.soft).all()
    assert found.score < 0.5


@pytest.mark.parametrize("images", [0, 1, 700])
def test_the_threshold_is_the_mean_and_spread_of_what_was_seen(images: int) -> None:
    values = np.random.default_rng(images).normal(0.7, 0.05, images)
    background = Background(3)
    for value in values:
        background.see(np.zeros((1, 3), np.float32), {"cup": float(value)})
    ages = np.arange(images)[::-1]
    fading = (1 - 1 / background_module.MEMORY) ** ages
    trust, usual, spread = background_module.TRUST, background_module.USUAL, background_module.SPREAD
    total = trust + fading.sum()
    mean = (trust * usual + fading @ values) / total
    variance = (trust * (spread**2 + (usual - mean) ** 2) + fading @ (values - mean) ** 2) / total
    expected = min(mean + background_module.RARE * np.sqrt(variance), background_module.HIGHEST)
    np.testing.assert_allclose(background.threshold("cup"), expected, rtol=1e-9)
