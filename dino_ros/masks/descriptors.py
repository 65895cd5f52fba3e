"""Descriptors of objects: what a student says of each, to find it again in other frames or to tell kinds apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def object_descriptors(features: NDArray[np.float32], objects: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The mean patch token of each object, float32 [N, C]: a row per object, by rising number, as `boxes` has them.

    `features` are patch tokens [h, w, C]; `objects` are numbers [H, W] of the same image at any size, 0 on the
    background. Every pixel of an object counts once, with the token of the patch in which its center lies. The means
    are not normalized: they are tokens like those of `features`, so that what was made for tokens (a classifier, a
    similarity, colors) suits them, and their mean over frames is a mean again. Compare them by cosine similarity.
    """
    (height, width, channels), (rows, columns) = features.shape, objects.shape
    numbers = np.flatnonzero(np.bincount(objects.ravel())[1:]) + 1
    of_row = np.zeros(int(numbers.max(initial=0)) + 1, dtype=np.intp)
    of_row[numbers] = np.arange(1, len(numbers) + 1)
    patches = np.add.outer(_cells(rows, height) * width, _cells(columns, width))
    places = of_row[objects] * (height * width) + patches
    counts = np.bincount(places.ravel(), minlength=(len(numbers) + 1) * height * width)
    weights = counts.reshape(len(numbers) + 1, height * width)[1:].astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    means: NDArray[np.float32] = weights @ features.reshape(height * width, channels)
    return means


def _cells(pixels: int, cells: int) -> NDArray[np.intp]:
    """For each of so many pixels in a line, the cell in which its center lies, of cells that divide the line evenly."""
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
