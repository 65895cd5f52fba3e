"""Schedules: values as functions of the step."""

from __future__ import annotations

import math


def cosine_schedule(step: float, steps: float, start: float, end: float) -> float:
    """Cosine from `start` at step 0 to `end` at the last step (`steps - 1`)."""
    if steps <= 1:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step / (steps - 1), 1.0)))


def warmup_cosine_schedule(step: int, steps: int, warmup: float, peak: float, end: float) -> float:
    """Linear from 0 at step 0 to `peak` at step `warmup`, then cosine to `end` at the last step."""
    if step < warmup:
        return peak * step / warmup
    return cosine_schedule(step - warmup, steps - warmup, peak, end)


def linear_schedule(step: int, steps: float, start: float, end: float) -> float:
    """Linear from `start` at step 0 to `end` at step `steps`, constant after it."""
    return end if step >= steps else start + (end - start) * step / steps
