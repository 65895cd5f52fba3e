"""Engines that are wrong on purpose."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Backend

Array = NDArray[np.float32]


class Wrong:
    """A correct engine whose outputs are spoiled by `change`, which takes an output's name and values."""

    def __init__(self, right: Backend, change: Callable[[str, Array], Array], description: str = "wrong") -> None:
        self.right, self.change, self.description = right, change, description
        self.calls = 0

    def __call__(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, Array]:
        self.calls += 1
        return {name: self.change(name, values) for name, values in self.right(images, outputs).items()}
