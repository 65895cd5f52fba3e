"""NumPy to ROS messages and back.

Two traps are dealt with here. A message's `data` is set from `bytes`: Jazzy's generated setter checks anything else
byte by byte. And cv_bridge keeps the channels of `32FC<N>` in 9 bits, so it silently misreads 768 or 1024 channels:
read feature messages with `to_array`.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.encodings import ImageLike, pixel_rows

_TYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
_NAMED = {"mono8": ("u1", 1), "mono16": ("u2", 1), "rgb8": ("u1", 3), "bgr8": ("u1", 3)} | {
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
}


def tensor_message(tensor: NDArray[np.float32], header: Header) -> Image:
    """A feature tensor [h, w, C] float32 as an Image of encoding 32FC<C>."""
    tensor = np.ascontiguousarray(tensor, dtype="<f4")
    height, width, channels = tensor.shape
    return _image(tensor.tobytes(), header, height, width, f"32FC{channels}", width * channels * 4)


def mask_message(mask: NDArray[np.uint8], header: Header) -> Image:
    """A mask [H, W] uint8 as an Image of encoding mono8."""
    height, width = mask.shape
    return _image(mask.tobytes(), header, height, width, "mono8", width)


def labels_message(labels: NDArray[np.uint16], header: Header) -> Image:
    """Numbers of objects [H, W] uint16 as an Image of encoding 16UC1."""
    height, width = labels.shape
    return _image(labels.astype("<u2", copy=False).tobytes(), header, height, width, "16UC1", width * 2)


def rgb_message(rgb: NDArray[np.uint8], header: Header) -> Image:
    """An image RGB [H, W, 3] uint8 as an Image of encoding rgb8."""
    height, width, _ = rgb.shape
    return _image(rgb.tobytes(), header, height, width, "rgb8", width * 3)


def jpeg_message(rgb: NDArray[np.uint8], header: Header, quality: int = 95) -> CompressedImage:
    """An image RGB [H, W, 3] uint8 as a JPEG CompressedImage."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return CompressedImage(header=header, format="jpeg", data=encoded.tobytes())


def to_array(message: ImageLike) -> NDArray[Any]:
    """The values of an Image message, [H, W] for one channel or [H, W, C].

    Reads `32FC<C>` and its like with any number of channels, and mono8, mono16, rgb8, bgr8, rgba8, bgra8, in the
    message's own channel order, whatever its byte order and padding. Raises UserError for other encodings and for data
    that does not fit the stated size.
    """
    match = re.fullmatch(r"(8U|8S|16U|16S|32S|32F|64F)C([1-9]\d*)", message.encoding)
    if match:
        kind, channels = _TYPES[match[1]], int(match[2])
    elif message.encoding in _NAMED:
        kind, channels = _NAMED[message.encoding]
    else:
        raise UserError(
            f"The encoding {message.encoding!r} cannot be read as an array: use dino_ros.images.encodings.to_rgb."
        )
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    rows = pixel_rows(message, message.width * channels * dtype.itemsize)
    values = np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder("="), copy=False)
    shape = (message.height, message.width, channels)
    return values.reshape(shape if channels > 1 else shape[:2])


def _image(data: bytes, header: Header, height: int, width: int, encoding: str, step: int) -> Image:
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step)
    message.data = data
    return message
