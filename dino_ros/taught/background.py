"""What a camera sees where no taught object is: what it looks like, and how like an object such things get."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

KEPT = 1024
"""Most tokens that are kept."""
PER_IMAGE = 8
"""Tokens that are taken from an image."""
USUAL, SPREAD = 0.88, 0.025
"""Mean and standard deviation, over images without an object, of the highest similarity to it, as long as little was
seen: those of two ViT-S on ten scenes of DAVIS, each object looked for in the scenes of the others."""
TRUST = 20
"""Images that count as much as that expectation."""
MEMORY = 500
"""Images after which what was seen counts for e times less."""
RARE = 2.3
"""Standard deviations above the mean that are asked for: one image in a hundred has more, if they are normal."""
HIGHEST = 0.95
"""Most similarity that is asked for: where an object was missed for long, it must not be locked out."""
FIRST_UPDATES, UPDATE_EVERY = (1, 4, 12), 32
"""Images after which `changed` is set: at once, and then from time to time."""


class Background:
    """The background of one camera."""

    def __init__(self, channels: int) -> None:
        self.tokens = np.zeros((0, channels), np.float32)
        """[n, C], unit length: a sample of all that was seen, of newer images more than of older ones."""
        self.changed = False
        """Whether much was added; for whoever uses the tokens to set back."""
        self._levels: dict[str, tuple[float, float, float]] = {}
        """By object, of the highest similarities: how many, their sum, the sum of their squares, fading."""
        self._random = np.random.default_rng(0)
        self._images = 0

    def see(self, tokens: NDArray[np.float32], highest: Mapping[str, float]) -> None:
        """Take in an image: its unit tokens [n, C] where no object was found, and the highest similarity of these to
        each object, by name."""
        chosen = tokens[self._random.permutation(len(tokens))[:PER_IMAGE]]
        if len(self.tokens) + len(chosen) <= KEPT:
            self.tokens = np.concatenate([self.tokens, chosen])
        else:
            self.tokens[self._random.permutation(len(self.tokens))[: len(chosen)]] = chosen
        self._images += 1
        if self._images in FIRST_UPDATES or self._images % UPDATE_EVERY == 0:
            self.changed = True
        for name, value in highest.items():
            count, total, squares = (part * (1 - 1 / MEMORY) for part in self._levels.get(name, (0.0, 0.0, 0.0)))
            self._levels[name] = (count + 1, total + value, squares + value * value)

    def threshold(self, name: str) -> float:
        """Cosine similarity to the object above which a patch is more like it than background is."""
        count, total, squares = self._levels.get(name, (0.0, 0.0, 0.0))
        images = TRUST + count
        mean = (TRUST * USUAL + total) / images
        variance = (TRUST * (SPREAD**2 + USUAL**2) + squares) / images - mean**2
        return min(mean + RARE * float(np.sqrt(max(variance, 0.0))), HIGHEST)
