"""Evenly spaced frame numbers."""

from __future__ import annotations

import numpy as np


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers from 0 to `total` - 1, both included; all of them if there are fewer.

    A count of 1 gives the first.
    """
    return [round(number) for number in np.linspace(0, total - 1, min(count, total)).tolist()]
