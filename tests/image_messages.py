"""Messages of every encoding."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Image:
    """The fields of sensor_msgs/Image."""

    encoding: str
    height: int
    width: int
    step: int
    data: NDArray[np.uint8] = field(repr=False)
    is_bigendian: int = 0


def message(pixels: NDArray[np.generic], encoding: str, padding: int = 0, bigendian: int = 0) -> Image:
    """An Image whose rows are followed by `padding` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((height, padding), 123, np.uint8)])
    return Image(encoding, height, width, padded.shape[1], padded.reshape(-1), bigendian)
