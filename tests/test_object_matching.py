"""Matching of objects against every possible matching, tried one by one."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from dino_train.evaluation.segmentation.labeled_images import VOID
from dino_train.evaluation.segmentation.object_matching import FOUND, match_objects


def slow_ious(numbers: NDArray[np.uint16], truth: NDArray[np.uint8]) -> dict[tuple[int, int], float]:
    """IoU of each true object with each found one, by sets of pixels."""
    pixels = [(int(n), int(t), i) for i, (n, t) in enumerate(zip(numbers.flat, truth.flat, strict=True)) if t != VOID]
    true = {t: {i for _, other, i in pixels if other == t} for _, t, _ in pixels if t}
    found = {n: {i for other, _, i in pixels if other == n} for n, _, _ in pixels if n}
    return {(t, n): len(true[t] & found[n]) / len(true[t] | found[n]) for t in true for n in found}


@pytest.mark.parametrize("seed", range(12))
def test_against_every_matching(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.array([0, 1, 2, 4, VOID], np.uint8), (5, 6))
    numbers = np.where(rng.random((5, 6)) < 0.6, truth * 100, rng.choice([0, 7, 100, 200], (5, 6))).astype(np.uint16)
    ious = slow_ious(numbers, truth)
    true, found = ({pair[side] for pair in ious} for side in (0, 1))
    # Partners of the true objects in order; those below 0 are nobody.
    partners = itertools.permutations([*found, *range(-len(true), 0)], len(true))
    best = max(sum(ious.get(pair, 0) for pair in zip(sorted(true), some, strict=True)) for some in partners)
    matching = match_objects(numbers, truth)
    assert matching.ious.sum() == pytest.approx(best)
    assert (len(matching.ious), matching.found) == (len(true), len(found))
    assert np.count_nonzero(matching.ious > FOUND) == sum(iou > FOUND for iou in ious.values())


def test_an_object_has_one_partner_and_void_is_nobodys() -> None:
    truth = np.zeros((4, 20), np.uint8)
    truth[:, :10], truth[:, 10:14], truth[:, 16:] = 1, 2, VOID
    numbers = np.zeros(truth.shape, np.uint16)
    numbers[:, :6], numbers[:, 6:10], numbers[:, 17:] = 30, 31, 32
    matching = match_objects(numbers, truth)
    np.testing.assert_allclose(matching.ious, [0.6, 0])
    assert matching.found == 2


@pytest.mark.parametrize("empty", ["numbers", "truth", "both"])
def test_nothing_matches_nothing(empty: str) -> None:
    block = np.ones((3, 4), np.uint8)
    truth = block * (empty == "numbers")
    matching = match_objects((block * (empty == "truth")).astype(np.uint16), truth)
    assert matching.ious.tolist() == [0.0] * (empty == "numbers")
    assert matching.found == (empty == "truth")
