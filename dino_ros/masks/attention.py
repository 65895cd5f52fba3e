"""The DINO paper's mask: the patches that hold most of the CLS token's attention. The baseline of all methods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError


def attention_mask(attention: NDArray[np.float32], mass: float = 0.6, head: int = -1) -> NDArray[np.bool_]:
    """Mask [h, w] on the patch grid from attention [heads, h, w], not negative.

    `mass` is the share of the attention that the mask holds, 0 to 1; `head` the attention head to use, -1 for the mean
    of all. Raises UserError if there is no such head.
    """
    heads = len(attention)
    if head >= heads:
        raise UserError(
            f"mask_attention_head is {head}, but the student has the heads 0 to {heads - 1}: set one of these, or -1 "
            "for their mean."
        )
    return keep_mass(attention.mean(axis=0) if head < 0 else attention[head], mass)


def keep_mass(attention: NDArray[np.float32], mass: float) -> NDArray[np.bool_]:
    """The smallest set of patches, as a mask [h, w], that holds the share `mass` of the attention [h, w].

    Of equal patches the first ones are taken. Caron et al. 2021, figure 4 (with a mass of 0.6). Empty if the attention
    is zero everywhere. Raises UserError for attention that is not finite, which half precision can cause.
    """
    values = attention.astype(np.float64).ravel()
    order = np.argsort(-values, kind="stable")
    held = np.cumsum(values[order])
    if not np.isfinite(held[-1]):
        raise UserError("The student's attention is not finite (NaN or infinite): export it with --precision fp32.")
    if held[-1] == 0:
        return np.zeros(attention.shape, dtype=np.bool_)
    count = int(np.searchsorted(held, mass * held[-1])) + 1
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[order[:count]] = True
    return mask.reshape(attention.shape)
