"""The methods that make masks of features, and soft masks, against slow references in float64."""

import warnings

import numpy as np
import pytest

pytest.importorskip("scipy")

import scipy.linalg
import scipy.ndimage
from numpy.typing import NDArray
from scenes import rectangle, render_scene

from dino_ros.masks.background import ALIKE, ROUNDS, background_mask
from dino_ros.masks.lost import SHARE, lost_mask
from dino_ros.masks.normalized_cut import ALIKE as EDGE
from dino_ros.masks.normalized_cut import APART, WARM_STEPS, normalized_cut_mask, second_eigenvector
from dino_ros.masks.normalized_cut import STEPS as COLD_STEPS
from dino_ros.masks.smoothed_attention import APART as UNRELATED
from dino_ros.masks.smoothed_attention import CLIP, smoothed_attention_mask
from dino_ros.masks.soft import otsu_threshold, soft_mask

SCENE = rectangle(14, 18, 3, 5, 9, 11)


def between_class_variance(scores: NDArray[np.float64], above: NDArray[np.bool_]) -> float:
    """Otsu 1979, equation 14."""
    share = above.mean()
    if share in (0, 1):
        return 0.0
    return float(share * (1 - share) * (scores[above].mean() - scores[~above].mean()) ** 2)


def slow_otsu(scores: NDArray[np.floating]) -> tuple[float, NDArray[np.float64]]:
    """The largest between-class variance of any split, and the scores without their outliers."""
    values = scores.astype(np.float64)
    clipped = np.clip(values, *np.percentile(values, (0.5, 99.5)))
    return max(between_class_variance(clipped, clipped > level) for level in np.unique(clipped)), clipped


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_otsus_threshold_parts_as_well_as_the_best_of_all_splits(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    upper = rng.random((20, 24)) < share
    scores = np.where(upper, rng.normal(0.4, 0.1, upper.shape), rng.normal(-0.2, 0.15, upper.shape)).astype(np.float32)
    best, clipped = slow_otsu(scores)
    assert between_class_variance(clipped, scores > otsu_threshold(scores)) > 0.999 * best


def test_otsus_threshold_takes_in_no_part_of_a_narrow_class() -> None:
    scores = np.concatenate([np.linspace(0, 0.003, 150), np.full(50, 1.0)]).astype(np.float32).reshape(10, 20)
    np.testing.assert_array_equal(scores > otsu_threshold(scores), scores == 1)


def test_an_outlier_does_not_move_otsus_threshold() -> None:
    scores = np.tile(np.float32([0, 0, 1, 1]), (25, 8))
    scores[0, 0] = -1000
    assert 0 <= otsu_threshold(scores) < 1


def test_a_soft_mask_by_hand() -> None:
    # Above 1: mean 4, so 4 becomes 1 and 2.5 (half way) 0.75. Not above: mean 0, so 0 becomes 0 and 0.5 becomes 0.25.
    scores = np.float32([[2.5, 5.5], [0.5, -1.5], [1, 0]])
    np.testing.assert_allclose(soft_mask(scores, 1.0), [[0.75, 1], [0.25, 0], [0.5, 0]])
    np.testing.assert_array_equal(soft_mask(scores, 1.0) > 0.5, scores > 1)


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3])
def test_scores_all_alike_are_no_object_far_from_one_half(value: float) -> None:
    scores = np.full((5, 7), value, np.float32)
    assert soft_mask(scores, otsu_threshold(scores)).max() == 0
    assert soft_mask(scores, value - 0.1).min() > 0.999
    assert soft_mask(scores, value + 0.1).max() < 0.001


def slow_background(features: NDArray[np.float32], attention: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each patch with the background."""
    tokens = [token / np.sqrt((token**2).sum()) for token in features.reshape(-1, features.shape[2]).astype(np.float64)]
    ranking = attention.astype(np.float64).mean(axis=0).ravel()
    for _ in range(1 + ROUNDS):
        ranked = sorted(range(len(tokens)), key=lambda patch: ranking[patch])
        center = sum(tokens[patch] for patch in ranked[: len(tokens) // 2]) / (len(tokens) // 2)
        likeness = np.array([token @ center / np.sqrt(center @ center) for token in tokens])
        ranking = -likeness
    return likeness.reshape(features.shape[:2])


@pytest.mark.parametrize("seed", range(6))
def test_background_is_its_formula(seed: int) -> None:
    features, attention = render_scene(SCENE, seed, noise=0.8)
    likeness = slow_background(features, attention)
    mask = background_mask(features, attention)
    best, clipped = slow_otsu(-likeness)
    assert between_class_variance(clipped, mask > 0.5) > 0.999 * best
    # The mask falls where the likeness rises, linear but for its ends.
    inside = (mask > 0.5) & (mask < 1)
    assert np.abs(np.corrcoef(mask[inside], likeness[inside])[0, 1] + 1) < 1e-4
    assert mask[likeness.argmin() // 18, likeness.argmin() % 18] == 1
    assert mask[likeness.argmax() // 18, likeness.argmax() % 18] == 0


def test_objects_are_found_whatever_they_look_like() -> None:
    for seed in range(5):
        features, attention = render_scene(SCENE, seed)
        np.testing.assert_array_equal(background_mask(features, attention) > 0.5, SCENE)
        np.testing.assert_array_equal(normalized_cut_mask(features, attention)[0] > 0.5, SCENE)
        np.testing.assert_array_equal(lost_mask(features) > 0.5, SCENE)
        np.testing.assert_array_equal(smoothed_attention_mask(features, attention) > 0.5, SCENE)


def test_a_background_all_alike_has_no_object() -> None:
    nothing = np.zeros_like(SCENE)
    features, attention = render_scene(nothing, noise=0.2)
    assert slow_background(features, attention).min() > ALIKE
    assert background_mask(features, attention).max() < 0.5


@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (1, 9), (28, 28), (3, 50)])
def test_random_and_constant_features_give_masks(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    attention = rng.random((3, *shape)).astype(np.float32)
    random = rng.normal(size=(*shape, 12)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for features in (random, np.ones_like(random), np.zeros_like(random)):
            for mask in (
                background_mask(features, attention),
                lost_mask(features),
                normalized_cut_mask(features, attention)[0],
                smoothed_attention_mask(features, attention),
            ):
                assert mask.dtype == np.float32
                assert mask.shape == shape
                assert mask.min() >= 0
                assert mask.max() <= 1
        for alike in (np.ones_like(random), np.zeros_like(random)):
            assert background_mask(alike, attention).max() == 0
            assert lost_mask(alike).max() == 0


def slow_squares(values: NDArray[np.floating], side: int) -> NDArray[np.float64]:
    """Mean of each square of `side` patches, [N, C], by loops."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    return np.array(
        [
            values[side * y : side * (y + 1), side * x : side * (x + 1)].astype(np.float64).mean(axis=(0, 1))
            for y in range(rows)
            for x in range(columns)
        ]
    )


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_smoothed_attention(
    features: NDArray[np.float32], attention: NDArray[np.float32], side: int
) -> NDArray[np.float64]:
    """Mean attention of the squares like each patch, weighted."""
    looked_at = attention.astype(np.float64).mean(axis=0)
    clipped = np.minimum(looked_at, np.percentile(looked_at, CLIP))
    tokens = features / np.linalg.norm(features, axis=2, keepdims=True)
    squares, means = slow_squares(tokens, side), slow_squares(clipped[..., None], side)[:, 0]
    scores = np.zeros(looked_at.shape)
    for y, x in np.ndindex(*looked_at.shape):
        weights = np.array([max(cosine(tokens[y, x], square) - UNRELATED, 0) ** 2 for square in squares])
        scores[y, x] = weights @ means / weights.sum()
    return scores


@pytest.mark.parametrize(("shape", "side"), [((14, 18), 1), ((31, 27), 1), ((32, 33), 2)])
def test_smoothed_attention_is_its_formula(shape: tuple[int, int], side: int) -> None:
    features, attention = render_scene(rectangle(*shape, 3, 5, 9, 11), noise=0.9)
    scores = slow_smoothed_attention(features, attention, side)
    mask = smoothed_attention_mask(features, attention)
    best, clipped = slow_otsu(scores)
    assert between_class_variance(clipped, mask > 0.5) > 0.999 * best
    inside = (mask > 0) & (mask < 1) & (mask > 0.5)
    assert np.corrcoef(mask[inside], scores[inside])[0, 1] > 0.9999


def test_a_patch_unlike_all_others_keeps_its_own_attention() -> None:
    features = np.tile(np.float32([1, 0, 0]), (32, 32, 1))
    features[:16, :, :] = (0, 1, 0)
    features[9, 5] = (0, 0, 0)
    attention = np.ones((1, 32, 32), np.float32)
    attention[0, :16] = 3
    attention[0, 9, 5] = 0.1
    mask = smoothed_attention_mask(features, attention)
    expected = rectangle(32, 32, 0, 0, 16, 32)
    expected[9, 5] = False
    np.testing.assert_array_equal(mask > 0.5, expected)


def slow_lost(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Simeoni et al. 2021: degree, seed, expansion, and the seed's part of the mask."""
    tokens = features.reshape(-1, features.shape[2]).astype(np.float64)
    tokens = tokens - tokens.mean(axis=0)
    tokens /= np.sqrt((tokens**2).sum(axis=1, keepdims=True))
    degree = [sum(float(p @ q) > 0 for q in tokens) for p in tokens]
    ranked = sorted(range(len(tokens)), key=lambda patch: degree[patch])
    seed = ranked[0]
    expansion = [patch for patch in ranked[: round(SHARE * len(tokens))] if tokens[patch] @ tokens[seed] > 0]
    mask = np.array([sum(token @ tokens[s] for s in expansion) > 0 for token in tokens]).reshape(features.shape[:2])
    labels, _ = scipy.ndimage.label(mask, np.ones((3, 3)))
    return np.asarray(labels == labels.ravel()[seed])


@pytest.mark.parametrize("seed", range(6))
def test_lost_is_its_formula(seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(7, 9, 5)).astype(np.float32)
    features += 2 * np.random.default_rng(100 + seed).normal(size=(1, 1, 5)).astype(np.float32)
    np.testing.assert_array_equal(lost_mask(features) > 0.5, slow_lost(features))


def test_lost_keeps_the_seeds_part_alone() -> None:
    two = SCENE | rectangle(14, 18, 11, 13, 14, 16)
    features, _ = render_scene(two)
    mask = lost_mask(features)
    parts = [part for part in (SCENE, two & ~SCENE) if (mask[part] > 0.5).all()]
    assert len(parts) == 1
    np.testing.assert_array_equal(mask > 0.5, parts[0])
    assert mask[two & ~parts[0]].max() == 0  # nothing is left there for the steps that follow


def graph(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """TokenCut's weights, by loops."""
    tokens = features.reshape(-1, features.shape[2]).astype(np.float64)
    weights = np.full((len(tokens), len(tokens)), APART)
    for i, p in enumerate(tokens):
        for j, q in enumerate(tokens):
            if p @ q / np.sqrt((p @ p) * (q @ q)) > EDGE:
                weights[i, j] = 1
    return weights


def exact_cut(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The second generalized eigenvector, of length 1 under D."""
    degrees = np.diag(weights.sum(axis=1))
    return np.asarray(scipy.linalg.eigh(degrees - weights, degrees)[1][:, 1])


def agreement(found: NDArray[np.float32], weights: NDArray[np.float64]) -> float:
    """Cosine of the two under D, whatever the sign."""
    degree = weights.sum(axis=1)
    exact = exact_cut(weights)
    return float(abs((degree * found) @ exact) / np.sqrt(((degree * found) @ found) * ((degree * exact) @ exact)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.3, 0.7])
def test_the_cut_is_the_second_eigenvector(seed: int, noise: float) -> None:
    features, _ = render_scene(rectangle(9, 11, 2, 3, 6, 8), seed, noise=noise)
    weights = graph(features)
    found = second_eigenvector(weights.astype(np.float32), None, COLD_STEPS)
    assert agreement(found, weights) > 0.999
    assert (weights.sum(axis=1) * found) @ found == pytest.approx(1, abs=1e-4)
    assert abs(weights.sum(axis=1) @ found) < 1e-3  # orthogonal to the first


def test_a_few_steps_from_the_last_cut_are_enough() -> None:
    rng = np.random.default_rng(1)
    features, _ = render_scene(rectangle(9, 11, 2, 3, 6, 8), noise=0.7)
    weights = graph(features)
    last = exact_cut(weights)
    moved = (last + 0.3 * np.abs(last).mean() * rng.normal(size=len(last))).astype(np.float32)
    assert agreement(moved, weights) < 0.99
    assert agreement(second_eigenvector(weights.astype(np.float32), last.astype(np.float32), 1), weights) > 0.99999
    assert agreement(second_eigenvector(weights.astype(np.float32), moved, WARM_STEPS), weights) > 0.999


def test_two_equal_blocks_are_parted() -> None:
    weights = np.full((20, 20), APART, np.float32)
    weights[:10, :10] = weights[10:, 10:] = 1
    for start in (None, np.linspace(-1, 1, 20).astype(np.float32)):
        found = second_eigenvector(weights, start, COLD_STEPS)
        np.testing.assert_allclose(np.abs(found), np.abs(found).mean(), rtol=1e-3)
        assert len({*np.sign(found[:10])} | {*-np.sign(found[10:])}) == 1


def test_the_cut_of_the_last_frame_is_taken_up() -> None:
    features, attention = render_scene(SCENE, noise=0.7)
    mask, cut = normalized_cut_mask(features, attention)
    again, _ = normalized_cut_mask(features, attention, cut)
    np.testing.assert_allclose(again, mask, atol=0.02)
    other_size = normalized_cut_mask(features, attention, cut[:7])[0]
    np.testing.assert_array_equal(other_size, mask)


def test_attention_tells_on_which_side_objects_are() -> None:
    features, attention = render_scene(SCENE)
    mask, _ = normalized_cut_mask(features, attention)
    turned, _ = normalized_cut_mask(features, 1 - attention)
    np.testing.assert_array_equal(turned > 0.5, mask <= 0.5)


def test_patches_of_large_grids_share_nodes_but_keep_their_own_edges() -> None:
    scene = rectangle(47, 61, 9, 13, 28, 33)  # no multiple of the squares' side, 3
    features, attention = render_scene(scene)
    tokens = features / np.linalg.norm(features, axis=2, keepdims=True)
    nodes = slow_squares(tokens, 3)
    cut = exact_cut(graph(nodes.reshape(15, 20, -1).astype(np.float32)))
    scores = np.zeros(scene.shape)
    for y, x in np.ndindex(*scene.shape):
        edges = np.array([1 if cosine(tokens[y, x], node) > EDGE else APART for node in nodes])
        scores[y, x] = edges @ cut / edges.sum()
    mask, found = normalized_cut_mask(features, attention)
    assert found.shape == (15 * 20,)
    assert mask.shape == scene.shape
    assert abs(np.corrcoef(mask.ravel(), scores.ravel())[0, 1]) > 0.999
    np.testing.assert_array_equal(mask > 0.5, scene)
