"""NumPy arrays to ROS messages; `dino_ros.messages` reads them back.

A message's `data` is set from `bytes`: Jazzy's generated setter checks anything else byte by byte.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header


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
    """Object numbers [H, W] uint16 as an Image of encoding 16UC1."""
    height, width = labels.shape
    return _image(labels.astype("<u2", copy=False).tobytes(), header, height, width, "16UC1", width * 2)


def rgb_message(rgb: NDArray[np.uint8], header: Header) -> Image:
    """An RGB image [H, W, 3] uint8 as an Image of encoding rgb8."""
    height, width, _ = rgb.shape
    return _image(rgb.tobytes(), header, height, width, "rgb8", width * 3)


def jpeg_message(rgb: NDArray[np.uint8], header: Header, quality: int = 95) -> CompressedImage:
    """An RGB image [H, W, 3] uint8 as a JPEG CompressedImage; `quality` is 0 to 100, by default image_transport's.

    The format is what image_transport writes for rgb8: its encoding, and the order in which JPEG decoders give colors.
    """
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=encoded.tobytes())


def camera_info_message(recorded: Any, header: Header) -> CameraInfo:
    """A CameraInfo that rosbags has read, of ROS 1 or ROS 2, with another header."""
    fields = {name.lower(): value for name, value in vars(recorded).items()}  # ROS 1 has D, K, R and P
    names = ("height", "width", "distortion_model", "d", "k", "r", "p", "binning_x", "binning_y")
    message = CameraInfo(header=header, **{name: fields[name] for name in names})
    part = ("x_offset", "y_offset", "height", "width", "do_rectify")
    message.roi = RegionOfInterest(**{name: getattr(recorded.roi, name) for name in part})
    return message


def _image(data: bytes, header: Header, height: int, width: int, encoding: str, step: int) -> Image:
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step)
    message.data = data
    return message
