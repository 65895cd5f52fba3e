"""Images and masks as data sets store them."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

OBJECTS = np.repeat(np.array([[0, 1, 2, 255], [0, 7, 7, 255]], np.uint8), 8, axis=1)
"""[2, 32]"""


def write_palette(file: Path, numbers: NDArray[np.uint8]) -> None:
    """Write an indexed PNG with colors that tell nothing of the numbers."""
    image = Image.fromarray(numbers)
    image.putpalette(np.random.default_rng(3).integers(0, 256, 768, np.uint8).tobytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def write_image(file: Path, shape: tuple[int, ...] = OBJECTS.shape) -> None:
    """Write an image of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
