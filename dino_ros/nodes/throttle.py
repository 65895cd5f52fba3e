"""Which frames of a camera are looked at: every n-th, and not more often than a rate."""

from __future__ import annotations


class Throttle:
    """Lets frames pass. `decimation` and `max_rate` may be changed at any time."""

    def __init__(self, decimation: int = 1, max_rate: float = 0.0) -> None:
        self.decimation = decimation
        """Of so many frames one passes, the first of all being one; at least 1."""
        self.max_rate = max_rate
        """Frames per second that pass at most, on average; 0 for no limit."""
        self._seen = 0
        self._due = float("-inf")

    def lets_pass(self, now: float) -> bool:
        """Whether the frame that came in at `now` (seconds) passes."""
        self._seen += 1
        if (self._seen - 1) % self.decimation:
            return False
        if self.max_rate <= 0:
            return True
        if now < self._due:
            return False
        # What passes late does not push the next one back, or a camera that is not quite regular would be slowed down
        # to a fraction of its rate; after a pause the rate starts anew.
        period = 1 / self.max_rate
        self._due = (self._due if now < self._due + period else now) + period
        return True
