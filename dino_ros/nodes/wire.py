"""Camera messages as they come from DDS, to NumPy without another copy of the frame.

rclpy's own conversion copies the pixels twice, into a C message and from there into an array.array, which is most of
the time between a camera and this package. rosbags' readers of the same serialization return a view of the bytes.
"""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import Header

from dino_ros.errors import UserError

_TYPES = get_typestore(Stores.ROS2_JAZZY)  # Image and CompressedImage have not changed since ROS 2 began


def read_image(data: bytes, compressed: bool) -> Any:
    """A serialized sensor_msgs/Image, or CompressedImage, with the fields of `ImageLike`; its data is a view of `data`.

    Raises UserError for bytes that are no such message.
    """
    name = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    try:
        return _TYPES.deserialize_cdr(data, name)
    except Exception as error:  # cut short, it raises what its reading code happens to run into
        raise UserError(
            f"A message of {len(data)} bytes is no {name}: check the type that the camera publishes."
        ) from error


def header_of(message: Any) -> Header:
    """The header of such a message, for messages of rclpy."""
    stamp = message.header.stamp
    return Header(stamp=Time(sec=stamp.sec, nanosec=stamp.nanosec), frame_id=message.header.frame_id)
