"""Small bags with pictures that are known."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore


def write_bag(path: Path, storage: str = "mcap", frames: int = 5, broken: int | None = None) -> list[NDArray[np.uint8]]:
    """Write a rosbag2 and return its pictures, RGB [48, 64, 3].

    Topics: /raw (bgr8, padded rows), /compressed (PNG), both at 10 Hz from stamp 1 s, and /text (String). The
    compressed picture number `broken` does not decode.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(frames)]
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:

        def connect(topic: str, kind: str) -> object:
            return writer.add_connection(topic, kind, typestore=store)

        raw = connect("/raw", "sensor_msgs/msg/Image")
        compressed = connect("/compressed", "sensor_msgs/msg/CompressedImage")
        text = connect("/text", "std_msgs/msg/String")
        for number, picture in enumerate(pictures):
            time = 1_000_000_000 + number * 100_000_000
            stamp = types["builtin_interfaces/msg/Time"](*divmod(time, 1_000_000_000))
            header = types["std_msgs/msg/Header"](stamp, "camera")
            padded = np.hstack([picture[:, :, ::-1].reshape(48, -1), np.zeros((48, 8), np.uint8)])
            png = cv2.imencode(".png", picture[:, :, ::-1])[1].ravel()
            png = png if number != broken else png[:50].copy()
            for connection, message in (
                (raw, types["sensor_msgs/msg/Image"](header, 48, 64, "bgr8", 0, 200, padded.reshape(-1))),
                (compressed, types["sensor_msgs/msg/CompressedImage"](header, "png", png)),
                (text, types["std_msgs/msg/String"]("hello")),
            ):
                writer.write(connection, time, store.serialize_cdr(message, message.__msgtype__))
    return pictures
