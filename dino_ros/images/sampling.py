"""Which frames stand for a recording where not all can be looked at."""

from __future__ import annotations

import numpy as np


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of the numbers 0 to `total` - 1 at even distances, first and last among them; all where there are fewer.

    A single one is the first.
    """
    return [round(number) for number in np.linspace(0, total - 1, min(count, total)).tolist()]
