"""Plays a bag, a video or a folder of images as a camera."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.sources import Frame, Source, open_source
from dino_ros.images.stamps import SECOND, stamp_fields
from dino_ros.nodes.messages import jpeg_message, rgb_message
from dino_ros.nodes.parameters import CAMERA_PARAMETERS, declare_parameters
from dino_ros.nodes.process import run
from dino_ros.nodes.rclpy_internals import RCLError

GAP = 1 / 30
"""Seconds between rounds of a source that has a single frame."""


class CameraNode(Node):
    """Publishes a source's frames at their recorded times and stamps; stamps of videos and folders start now.

    A bag's message that already has the chosen transport is published as it was recorded; others are converted. Raises
    UserError if the source cannot be played, or for a parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        declare_parameters(self, CAMERA_PARAMETERS, read_only=True)
        if not self._value("path"):
            raise UserError("No path given: set the parameter `path` to a bag, a video or a folder of images.")
        self.source = open_source(self._value("path"), self._value("topic") or None)
        compressed = self._value("image_transport") == "compressed"
        self._type = CompressedImage if compressed else Image
        topic = "image_raw/compressed" if compressed else "image_raw"
        self._publisher = self.create_publisher(self._type, topic, QoSProfile(depth=10))
        self.published = 0

    def play(self) -> None:
        """Publish every frame when it is due; returns at the end, or when ROS is shut down."""
        topic = self._publisher.topic_name
        self.get_logger().info(
            f"Playing {self.source.name} ({len(self.source)} frames) on {topic}, once it has subscribers."
        )
        while rclpy.ok() and self._publisher.get_subscription_count() < self._value("wait_for_subscribers"):
            rclpy.spin_once(self, timeout_sec=0.05)
        start = time.monotonic()
        for due, stamp, frame in timeline(self.source, self._value("rate"), self._value("loop"), self._now()):
            while rclpy.ok() and (wait := start + due - time.monotonic()) > 0:
                rclpy.spin_once(self, timeout_sec=min(wait, 0.05))
            if not rclpy.ok():
                break
            try:
                self._publisher.publish(self._message(frame, stamp))
                self.published += 1
            except UserError as error:
                self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            except RCLError:
                if rclpy.ok():
                    raise
                break  # shut down between the check and the publishing
        if rclpy.ok():  # what is not delivered yet is lost when the process ends
            self._publisher.wait_for_all_acked(Duration(seconds=5))
        self.get_logger().info(f"Played {self.published} frames of {self.source.name}.")

    def _message(self, frame: Frame, stamp: int) -> Image | CompressedImage:
        header = Header(stamp=Time(**stamp_fields(stamp)), frame_id=self._value("frame_id") or frame.frame_id)
        recorded: Any = frame.image
        if self._type is CompressedImage:
            if not hasattr(recorded, "encoding"):
                message = CompressedImage(header=header, format=recorded.format)
                message.data = bytes(recorded.data)
                return message
            return jpeg_message(frame.rgb(), header)
        if hasattr(recorded, "encoding"):
            message = Image(header=header, height=recorded.height, width=recorded.width, encoding=recorded.encoding)
            message.is_bigendian, message.step = recorded.is_bigendian, recorded.step
            message.data = bytes(recorded.data)
            return message
        return rgb_message(frame.rgb(), header)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def timeline(source: Source, rate: float, loop: bool, now: int) -> Iterator[tuple[float, int, Frame]]:
    """Each frame with the time when it is due, in seconds from the start, and its stamp, in nanoseconds.

    `rate` (frames per second) spaces the frames; 0 keeps the recorded spacing. A recording keeps its stamps in either
    case; stamps of other sources are `now` plus the time when the frame is due. With `loop` the source repeats forever,
    each round shifted by the source's length, so that times and stamps always rise.
    """
    played = 0
    shift = 0
    first: int | None = None
    for _ in itertools.count():
        stamps: list[int] = []
        for frame in source:
            stamps.append(frame.stamp)
            stamp = frame.stamp + shift
            first = stamp if first is None else first
            due = played / rate if rate else (stamp - first) / SECOND
            yield due, stamp if source.recorded else now + round(due * SECOND), frame
            played += 1
        if not loop or not stamps:
            return
        length = max(stamps) - min(stamps)
        shift += length + (round(length / (len(stamps) - 1)) if length else round(GAP * SECOND))


def main() -> None:
    """Play until the source ends or the node is interrupted; bad input is logged as one sentence, with exit code 2."""
    run("camera", lambda: CameraNode().play())


if __name__ == "__main__":
    main()
