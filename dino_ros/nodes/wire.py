"""Serialized camera messages from DDS, read without copying the frame.

rclpy's own conversion copies the pixels twice, into a C message and from there into an array.array, which takes most of
the time between the camera and this package. rosbags reads the same serialization and returns a view of the bytes.
"""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.cdr import image_types, read_cdr

_TYPES = image_types()


def read_image(data: bytes, compressed: bool) -> Any:
    """Read a serialized sensor_msgs/Image, or CompressedImage; the message's own data is a view of `data`.

    Raises UserError for bytes that are not such a message.
    """
    name = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    try:
        return read_cdr(_TYPES, name, data)
    except Exception as error:  # on truncated bytes it raises whatever it runs into
        raise UserError(
            f"A message of {len(data)} bytes is not a {name}: check the type that the camera publishes."
        ) from error


def header_of(message: Any) -> Header:
    """The header of a message from `read_image`, for messages of rclpy."""
    stamp = message.header.stamp
    return Header(stamp=Time(sec=stamp.sec, nanosec=stamp.nanosec), frame_id=message.header.frame_id)
