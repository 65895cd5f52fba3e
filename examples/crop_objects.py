#!/usr/bin/env python3
"""Crop every object that the perception node sees out of the camera's images: a subscriber that uses cv_bridge.

    ros2 run dino_ros crop_objects.py --ros-args -r image:=/camera/image_raw

Subscribes to `image` (sensor_msgs/Image) and to /dino/objects, waits for the two messages of the same stamp, and
publishes one bgr8 sensor_msgs/Image per object on `~/crops`, with the header of the frame.

Read /dino/features, /dino/attention and /dino/embedding with `dino_ros.to_array` instead: cv_bridge misreads images of
that many channels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import rclpy
from cv_bridge import CvBridge
from message_filters import Subscriber, TimeSynchronizer
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from dino_ros.nodes.process import run

FRAMES_KEPT = 30
"""Camera frames that wait for their objects; frames that the perception node skips never get any."""


class CropObjects(Node):
    """Publishes what lies inside the box of each object."""

    def __init__(self) -> None:
        super().__init__("crop_objects")
        self.bridge = CvBridge()
        self.publisher = self.create_publisher(Image, "~/crops", 10)
        camera = Subscriber(self, Image, "image", qos_profile=qos_profile_sensor_data)
        objects = Subscriber(self, Image, "/dino/objects")
        self.pairs = TimeSynchronizer([camera, objects], FRAMES_KEPT)
        self.pairs.registerCallback(self.on_pair)

    def on_pair(self, camera: Image, objects: Image) -> None:
        """Publish the crops of one frame; `objects` carries the camera's stamp and has its size."""
        bgr = self.bridge.imgmsg_to_cv2(camera, "bgr8")
        numbers = self.bridge.imgmsg_to_cv2(objects, "passthrough")
        for crop in crops(bgr, numbers).values():
            self.publisher.publish(self.bridge.cv2_to_imgmsg(crop, "bgr8", camera.header))


def crops(image: NDArray[np.uint8], objects: NDArray[np.uint16]) -> dict[int, NDArray[np.uint8]]:
    """Parts of an image [H, W, C], one for each number in `objects` [H, W] except 0, which is the background."""
    parts: dict[int, Any] = {}
    for number in np.unique(objects[objects > 0]).tolist():
        left, top, width, height = cv2.boundingRect((objects == number).astype(np.uint8))
        parts[number] = image[top : top + height, left : left + width]
    return parts


def main() -> None:
    """Run the node until it is interrupted."""
    run("crop_objects", lambda: rclpy.spin(CropObjects()))


if __name__ == "__main__":
    main()
