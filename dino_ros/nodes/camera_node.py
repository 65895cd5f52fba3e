"""Plays a bag, a video or a folder of images as a camera."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.sources import Frame, Source, open_source
from dino_ros.nodes.messages import jpeg_message, rgb_message

PARAMETERS: dict[str, tuple[str | float | int | bool, str]] = {
    "path": ("", "Bag, video or folder of images to play."),
    "topic": ("", "Image topic of a bag; may be left out where there is only one."),
    "rate": (0.0, "Frames per second; 0 for the rate it was recorded with."),
    "loop": (False, "Start again at the end; stamps go on rising."),
    "image_transport": (
        "raw",
        "raw publishes sensor_msgs/Image on `image_raw`, compressed on `image_raw/compressed`.",
    ),
    "frame_id": ("", "frame_id of the headers; empty for the recorded one."),
    "wait_for_subscribers": (
        1,
        "Play only once so many subscribe, so that no frame is lost at the start; 0: at once.",
    ),
}
GAP = 1 / 30
"""Seconds from the last frame to the first of the next round, where a source has a single frame."""


class CameraNode(Node):
    """Publishes a source's frames at their times, with the recorded stamps (videos and folders: from now on).

    A message of a bag that already is of the wanted transport is published as it was recorded; others are converted.
    Raises UserError if the source cannot be played.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        for name, (default, description) in PARAMETERS.items():
            try:
                self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True))
            except InvalidParameterTypeException as error:
                raise UserError(
                    f"The parameter {name} must be of the type of {default!r} (write 10.0 for a rate of 10): {error}."
                ) from error
        if not self._value("path"):
            raise UserError("No path given: set the parameter `path` to a bag, a video or a folder of images.")
        if self._value("rate") < 0:
            raise UserError(f"rate is {self._value('rate')}: it must be 0 (as recorded) or frames per second.")
        if self._value("image_transport") not in ("raw", "compressed"):
            raise UserError(f"image_transport is {self._value('image_transport')!r}: choose raw or compressed.")
        self.source = open_source(self._value("path"), self._value("topic") or None)
        compressed = self._value("image_transport") == "compressed"
        self._type = CompressedImage if compressed else Image
        topic = "image_raw/compressed" if compressed else "image_raw"
        self._publisher = self.create_publisher(self._type, topic, QoSProfile(depth=10))
        self.published = 0

    def play(self) -> None:
        """Publish every frame at its time; returns at the end, or when ROS is shut down."""
        topic = self._publisher.topic_name
        self.get_logger().info(f"Playing {self.source.name} ({len(self.source)} frames) on {topic} once it is heard.")
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
            except rclpy_implementation.RCLError:
                if rclpy.ok():
                    raise
                break  # interrupted between the check and the publishing
        if rclpy.ok():  # a process that ends takes with it what is not delivered yet
            self._publisher.wait_for_all_acked(Duration(seconds=5))
        self.get_logger().info(f"Played {self.published} frames of {self.source.name}.")

    def _message(self, frame: Frame, stamp: int) -> Image | CompressedImage:
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        header = Header(
            stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=self._value("frame_id") or frame.frame_id
        )
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
    """Frames with the seconds after the start at which each is due, and its stamp in nanoseconds.

    `rate` 0 keeps the recorded spacing; another one sets it, and leaves the stamps of a recording as they are. Every
    further round of a loop comes later by the length of the source, so that neither times nor stamps go back. Stamps
    of sources that are no recording are `now` plus the time at which each frame is due.
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
            due = played / rate if rate else (stamp - first) / 1e9
            yield due, stamp if source.recorded else now + round(due * 1e9), frame
            played += 1
        if not loop or not stamps:
            return
        length = max(stamps) - min(stamps)
        shift += length + (round(length / (len(stamps) - 1)) if length else round(GAP * 1e9))


def main() -> None:
    """Play until the source ends or the node is interrupted; bad input prints one sentence and exits with code 2."""
    rclpy.init(args=sys.argv)
    try:
        CameraNode().play()
    except UserError as error:
        rclpy.logging.get_logger("camera").error(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
