"""Which frames pass: every n-th, and at most `max_rate` per second."""

from __future__ import annotations


class Throttle:
    """Decides which frames pass. `decimation` and `max_rate` may be changed at any time."""

    def __init__(self, decimation: int = 1, max_rate: float = 0.0) -> None:
        self.decimation = decimation
        """Every n-th frame passes, starting with the first; at least 1."""
        self.max_rate = max_rate
        """Most frames per second that pass, on average; 0 for no limit."""
        self._seen = 0
        self._due = float("-inf")

    def lets_pass(self, now: float) -> bool:
        """Whether the frame that came in at `now` (seconds) passes."""
        self._seen += 1
        if (self._seen - 1) % self.decimation:
            return False
        if self.max_rate <= 0:
            return True
        period = 1 / self.max_rate
        self._due = min(self._due, now + period)  # later than that it was only due at a lower rate, before a change
        if now < self._due:
            return False
        # A frame that passes late does not delay the next one: otherwise jitter would slow a camera down to a fraction
        # of its rate. After a pause the schedule starts over.
        self._due = (self._due if now < self._due + period else now) + period
        return True
