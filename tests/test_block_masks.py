"""Block-wise masks against the numbers of DINOv2's reference sampler."""

import numpy as np
import pytest

pytest.importorskip("torch")

from dino_train.data.block_masks import draw_masks, hide_blocks

DRAWS = 1500
REFERENCE = {
    (16, 25): (24.893, 0.311, 30.579, 6.274, 0.0162, 0.1456),
    (16, 128): (127.902, 0.336, 60.980, 10.502, 0.0656, 0.8382),
    (8, 19): (18.945, 0.231, 20.794, 4.168, 0.0869, 0.4898),
    (4, 1): (0.719, 0.449, 2.151, 1.471, 0.0456, 0.0438),
}
"""By side of the grid and patches asked for, over 8,000 draws or more of MaskingGenerator in facebookresearch/dinov2:
hidden patches and borders between hidden and seen ones, mean and deviation of each; how often the four corners and the
four patches in the middle are hidden."""


def borders(masks: np.ndarray) -> np.ndarray:
    """Pairs of neighbors of which one is hidden: few where blocks are large and compact."""
    down, right = masks[:, 1:] != masks[:, :-1], masks[:, :, 1:] != masks[:, :, :-1]
    return down.sum(axis=(1, 2)) + right.sum(axis=(1, 2))


@pytest.mark.parametrize(("side", "patches"), REFERENCE)
def test_blocks_are_drawn_as_by_the_reference(side: int, patches: int) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((DRAWS, side, side), bool)
    for mask in masks:
        hide_blocks(rng, mask, patches)
    hidden, edges = masks.sum(axis=(1, 2)), borders(masks)
    assert hidden.max() <= patches
    *moments, corner, middle = REFERENCE[side, patches]
    for values, mean, deviation in ((hidden, *moments[:2]), (edges, *moments[2:])):
        assert values.mean() == pytest.approx(mean, abs=4 * deviation / DRAWS**0.5)
        assert values.std() == pytest.approx(deviation, rel=0.2)
    often, half = masks.mean(axis=0), side // 2
    corners = often[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    for ours, theirs in ((corners, corner), (often[half - 1 : half + 1, half - 1 : half + 1].mean(), middle)):
        assert ours == pytest.approx(theirs, abs=4 * (theirs * (1 - theirs) / DRAWS) ** 0.5)


def test_a_share_of_the_images_is_masked_and_the_range_is_covered() -> None:
    rng = np.random.default_rng(0)
    masks = np.stack([draw_masks(rng, 11, (14, 14), 0.5, (0.1, 0.5)) for _ in range(100)])
    shares = np.sort(masks.mean(axis=(2, 3)), axis=1)
    assert not shares[:, :6].any(), "5 of 11 crops are masked"
    for number, (low, high) in enumerate(zip(np.linspace(0.1, 0.5, 6), np.linspace(0.1, 0.5, 6)[1:], strict=False)):
        part = shares[:, 6 + number]  # one crop of each part of the range, less what a patch or two make
        assert low - 0.03 < part.min()
        assert part.max() <= high
        assert part.max() - part.min() > 0.5 * (high - low)
    places = masks.any(axis=(2, 3)).mean(axis=0)
    assert places == pytest.approx(np.full(11, 5 / 11), abs=0.2), "any image of a batch may be masked"
    assert not draw_masks(rng, 3, (14, 14), 0.3, (0.1, 0.5)).any(), "0.9 images are none"
