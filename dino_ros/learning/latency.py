"""Whether training gets in the way: the latency of perception against what it is without."""

from __future__ import annotations

import statistics
from collections import deque

FEWEST = 5
"""Reports from which on it is known what the latency is without training."""
KEPT = 60
"""Latest reports without training that say so."""
IN_A_ROW = 3
"""Reports of a higher latency that pause the training: one alone is chance."""
REST = 10
"""Reports for which a pause lasts, at least."""


class LatencyWatch:
    """Takes the latency that the perception node reports each second, None where it processed no frame."""

    def __init__(self, slowdown: float) -> None:
        self.slowdown = slowdown
        """Factor of the latency without training above which it is too high."""
        self._without: deque[float] = deque(maxlen=KEPT)
        self._latest: deque[bool] = deque(maxlen=IN_A_ROW)
        self._rest = 0

    @property
    def normal(self) -> float | None:
        """The latency without training; None while too few reports have come."""
        return statistics.median(self._without) if len(self._without) >= FEWEST else None

    def without_training(self, latency: float | None) -> None:
        """A report while nothing was trained."""
        if latency is not None:
            self._without.append(latency)

    def is_high(self, latency: float | None) -> bool:
        """Whether a latency is too high."""
        return latency is not None and self.normal is not None and latency > self.slowdown * self.normal

    def while_training(self, latency: float | None) -> bool:
        """A report while something is trained, or paused; whether to pause now."""
        if latency is not None:
            self._latest.append(self.is_high(latency))
        if self._rest:
            self._rest -= 1
        elif len(self._latest) == IN_A_ROW and all(self._latest):
            self._rest = REST
            self._latest.clear()
        return self._rest > 0
