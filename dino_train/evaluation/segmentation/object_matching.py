"""How well objects are told apart: those that were found, matched one-to-one with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dino_train.evaluation.segmentation.labeled_images import VOID

FOUND = 0.5
"""Two matched objects are the same if their IoU exceeds this. Of objects that do not overlap each other, no two can."""


@dataclass(frozen=True)
class Matching:
    """The objects of one image, matched."""

    ious: NDArray[np.float64]
    """[n]: IoU of each true object with the found one that it is matched with, 0 if with none."""
    found: int
    """How many objects were found."""


def match_objects(numbers: NDArray[np.uint16], truth: NDArray[np.uint8]) -> Matching:
    """Match found objects, `numbers` [H, W], with the true ones, `truth` [H, W]; 0 is background in both.

    Each object has at most one partner, so that the sum of their IoUs is largest. Pixels that are VOID in the truth are
    left out: an object that lies wholly on them was not found, nor missed.
    """
    judged = truth != VOID
    found, columns = np.unique(numbers[judged], return_inverse=True)
    true, rows = np.unique(truth[judged], return_inverse=True)
    shared = np.bincount(rows * len(found) + columns, minlength=len(true) * len(found)).reshape(len(true), len(found))
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    ious = (shared / np.maximum(union, 1))[true > 0][:, found > 0]
    partners = linear_sum_assignment(ious, maximize=True)
    matched = np.zeros(len(ious))
    matched[partners[0]] = ious[partners]
    return Matching(matched, ious.shape[1])
