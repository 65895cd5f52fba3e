"""Messages of ROS 2 as they are serialized, and the types of images among them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

PADDING = 8
"""Bytes that writers pad messages with at most."""
IMAGES = {
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec\n",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    "sensor_msgs/msg/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    "uint8 is_bigendian\nuint32 step\nuint8[] data\n",
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data\n",
}
"""Definitions of images, and of what they consist of: the same in all releases of ROS 2."""


@cache
def image_types() -> Typestore:
    """The types of images alone: rosbags takes ten times as long to make those of a whole release."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    for kind, definition in IMAGES.items():
        store.register(get_types_from_msg(definition, kind))
    return store


def read_cdr(store: Typestore, kind: str, raw: bytes) -> Any:
    """Deserialize a message of ROS 2; zeros after its end, which some writers pad it with, are passed over.

    Raises whatever rosbags runs into.
    """
    try:
        return store.deserialize_cdr(raw, kind)
    except Exception:
        for padding in range(4, PADDING + 1, 4):
            if raw[-padding:].strip(b"\0"):
                break
            try:
                return store.deserialize_cdr(memoryview(raw)[:-padding], kind)
            except Exception:
                continue
        raise
