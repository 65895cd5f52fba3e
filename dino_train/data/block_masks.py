"""Block-wise masks: which patches of an image are hidden (Bao et al. 2022, BEiT, algorithm 1, as in DINOv2)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SMALLEST = 4
"""Patches of the smallest block."""
LARGEST = 0.5
"""Share of the image's patches in the largest block."""
ASPECT = (0.3, 1 / 0.3)
"""Range of a block's height divided by its width, drawn evenly over its logarithm."""
TRIES = 10
"""Blocks that are drawn until one fits and hides something new."""


def draw_masks(
    rng: np.random.Generator, images: int, grid: tuple[int, int], probability: float, ratio: tuple[float, float]
) -> NDArray[np.bool_]:
    """Draw masks [images, rows, columns], True where a patch is hidden.

    The share `probability` of the images, in a random order, has a mask; the others have none. The shares of the
    patches that the masks hide are spread over `ratio`: that of each is drawn from a part of the range of its own.
    """
    masks = np.zeros((images, *grid), bool)
    masked = int(images * probability)
    edges = np.linspace(*ratio, masked + 1)
    for mask, low, high in zip(masks, edges, edges[1:], strict=False):
        hide_blocks(rng, mask, int(mask.size * rng.uniform(low, high)))
    return rng.permutation(masks)


def hide_blocks(rng: np.random.Generator, mask: NDArray[np.bool_], patches: int) -> None:
    """Hide blocks in a `mask` [rows, columns] until `patches` of them are hidden, or no further block fits."""
    rows, columns = mask.shape
    hidden = 0
    while hidden < patches:
        allowed = min(patches - hidden, LARGEST * mask.size)
        for _ in range(TRIES):
            area = rng.uniform(min(SMALLEST, allowed), max(SMALLEST, allowed))
            aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= rows or width >= columns:
                continue
            top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
            block = mask[top : top + height, left : left + width]
            new = block.size - int(block.sum())
            if 0 < new <= allowed:
                block[:] = True
                hidden += new
                break
        else:
            return
