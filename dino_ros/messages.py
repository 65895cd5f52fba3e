"""Reading the node's messages in your own subscriber, without cv_bridge and without ROS.

cv_bridge stores the channels of `32FC<N>` in 9 bits and silently misreads 768 or 1024 of them: read feature messages
with `to_array`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError, quoted
from dino_ros.images.encodings import ImageLike, pixel_rows

_TYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
_NAMED = {"mono8": ("u1", 1), "mono16": ("u2", 1), "rgb8": ("u1", 3), "bgr8": ("u1", 3)} | {
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
}


def to_array(message: ImageLike) -> NDArray[Any]:
    """The values of an Image message: [H, W] for one channel, else [H, W, C], in the message's number type.

    Reads encodings such as `32FC<C>`, with any number of channels, and mono8, mono16, rgb8, bgr8, rgba8 and bgra8.
    Keeps the message's channel order; handles either byte order, padded rows, and images of no rows, as of the
    descriptors where no object is seen. Raises UserError for other encodings and for data that does not fit the stated
    size.
    """
    match = re.fullmatch(r"(8U|8S|16U|16S|32S|32F|64F)C([1-9][0-9]{0,8})", message.encoding)
    if match:
        kind, channels = _TYPES[match[1]], int(match[2])
    elif message.encoding in _NAMED:
        kind, channels = _NAMED[message.encoding]
    else:
        raise UserError(
            f"The encoding {quoted(message.encoding)} cannot be read as an array: use dino_ros.images.encodings.to_rgb."
        )
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    rows = pixel_rows(message, message.width * channels * dtype.itemsize, least_rows=0)
    values = np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder("="), copy=False)
    shape = (message.height, message.width, channels)
    return values.reshape(shape if channels > 1 else shape[:2])
