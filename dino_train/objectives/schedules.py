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


def epoch_schedule(epoch: int, warmup: float, start: float, end: float) -> float:
    """In even steps, one an epoch, from `start` in epoch 0 to `end` in the last epoch of the warm-up, constant after
    it; `end` without warm-up. A part of an epoch counts as one."""
    epochs = math.ceil(warmup)
    if epoch >= epochs:
        return end
    return start + (end - start) * epoch / max(epochs - 1, 1)
