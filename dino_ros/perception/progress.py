"""How far something is and how long it will take, in words."""

from __future__ import annotations

import time

from dino_ros.backends import Report

EVERY = 2.0
"""Seconds between two lines."""


class Progress:
    """Of an export: reports frames done of `total`, images per second and the time left, now and then."""

    def __init__(self, total: int, report: Report) -> None:
        self._total = total
        self._report = report
        self._started = self._shown = time.monotonic()
        self._first: tuple[int, int] | None = None

    def __call__(self, passed: int, written: int) -> None:
        """Take note that `passed` frames of the recordings lie behind, and `written` images were written in all."""
        now = time.monotonic()
        if self._first is None:
            self._started, self._first = now, (passed, written)
        if now - self._shown < EVERY:
            return
        self._shown = now
        seconds = max(now - self._started, 1e-9)
        frames, images = passed - self._first[0], written - self._first[1]
        left = seconds * max(self._total - passed, 0) / max(frames, 1)
        self._report(
            f"  {passed} of {self._total} frames, {written} images written, {images / seconds:.1f} images/s, "
            f"{duration(left)} left"
        )


def duration(seconds: float) -> str:
    """A duration as people say it, rounded: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
