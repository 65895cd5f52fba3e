"""Plays a bag, a video or a folder of images as a camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.sources import BagSource, Frame, Source, open_source
from dino_ros.images.stamps import SECOND, stamp_fields
from dino_ros.nodes.messages import camera_info_message, jpeg_message, rgb_message
from dino_ros.nodes.parameters import CAMERA_PARAMETERS, declare_parameters
from dino_ros.nodes.process import run, serve
from dino_ros.nodes.qos import overridable
from dino_ros.nodes.rclpy_internals import RCLError

GAP = 1 / 30
"""Seconds between frames whose recorded times do not tell."""
LONGEST_GAP = 3.0
"""Seconds that a pause in a recording is played for at most."""
LAST_STAMP = 2**31 * SECOND
"""Nanoseconds from which on a stamp does not fit into a header, whose seconds are an int32."""


TICK = 0.05
"""Seconds between two times on /clock."""


class Event(NamedTuple):
    """A frame that is to be played."""

    due: float
    """Seconds from the start."""
    stamp: int
    """Nanoseconds: the header's stamp."""
    clock: int
    """Nanoseconds: what a clock showed when it was recorded."""
    frame: Frame


class CameraNode(Node):
    """Publishes a source's frames, spaced as recorded, with their stamps; stamps of videos and folders start now.

    A bag's message that already has the chosen transport is published as it was recorded; others are converted. With
    each goes the camera's CameraInfo, where the bag has some. Raises UserError if the source cannot be played, or for a
    parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        declare_parameters(self, CAMERA_PARAMETERS, read_only=True)
        if not self._value("path"):
            raise UserError("No path given: set the parameter `path` to a bag, a video or a folder of images.")
        self.source = open_source(self._value("path"), self._value("topic") or None, camera_info=True)
        compressed = self._value("image_transport") == "compressed"
        self._type = CompressedImage if compressed else Image
        topic = "image_raw/compressed" if compressed else "image_raw"
        self._publisher = self._advertise(self._type, topic)
        if isinstance(self.source, BagSource) and self.source.camera_info_topic:
            self._info_publisher = self._advertise(CameraInfo, "camera_info")
        if self._value("clock"):
            self._clock_publisher = self._advertise(Clock, "/clock")
        self.published = 0

    def _advertise(self, kind: type, topic: str) -> Publisher:
        profile = QoSProfile(depth=10)
        options = overridable(self, "publisher", topic, profile)
        return self.create_publisher(kind, topic, profile, qos_overriding_options=options)

    def play(self) -> None:
        """Publish every frame when it is due; returns at the end, or when ROS is shut down."""
        topic = self._publisher.topic_name
        self.get_logger().info(
            f"Playing {self.source.name} ({len(self.source)} frames) on {topic}, once it has subscribers."
        )
        while rclpy.ok() and self._publisher.get_subscription_count() < self._value("wait_for_subscribers"):
            self._serve(0.05)
        start = time.monotonic()
        rate, loop, say = self._value("rate"), self._value("loop"), self.get_logger().info
        problem = "none of its messages can be read"
        before = None
        for event in timeline(self.source, rate, loop, self._now(), say):
            while rclpy.ok() and (wait := start + event.due - time.monotonic()) > 0:
                if before is not None:
                    self._tell_time(clock_at(before, event, event.due - wait))
                self._serve(min(wait, TICK))
            if not rclpy.ok():
                break
            before = event
            try:
                self._publish(event)
                self.published += 1
            except UserError as error:
                problem = str(error)
                self.get_logger().warning(problem, throttle_duration_sec=5.0)
            except RCLError:
                if rclpy.ok():
                    raise
                break  # shut down between the check and the publishing
        if rclpy.ok():  # what is not delivered yet is lost when the process ends
            self._publisher.wait_for_all_acked(Duration(seconds=5))
        if not self.published and rclpy.ok():
            raise UserError(f"No frame of {self.source.name} could be played: {problem}")
        self.get_logger().info(f"Played {self.published} frames of {self.source.name}.")

    def _publish(self, event: Event) -> None:
        """Publish the frame, and before it what belongs to it. Raises UserError if it cannot be decoded."""
        frame = event.frame
        header = Header(stamp=Time(**stamp_fields(event.stamp)), frame_id=self._value("frame_id") or frame.frame_id)
        message = self._message(frame, header)
        self._tell_time(event.clock)
        if frame.camera_info is not None:
            self._info_publisher.publish(camera_info_message(frame.camera_info, header))
        self._publisher.publish(message)

    def _tell_time(self, clock: int) -> None:
        if self._value("clock"):
            self._clock_publisher.publish(Clock(clock=Time(**stamp_fields(clock % LAST_STAMP))))

    def _message(self, frame: Frame, header: Header) -> Image | CompressedImage:
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

    def _serve(self, seconds: float) -> None:
        """Serve what is asked of the node, for at most so long."""
        serve(self, lambda: rclpy.spin_once(self, timeout_sec=seconds))

    def _now(self) -> int:
        """Nanoseconds; the node that tells others the time does not ask itself."""
        return time.time_ns() if self._value("clock") else int(self.get_clock().now().nanoseconds)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def timeline(source: Source, rate: float, loop: bool, now: int, say: Callable[[str], object]) -> Iterator[Event]:
    """Each frame with the time when it is due, its stamp, and the time of the clock.

    `rate` (frames per second) spaces the frames; 0 keeps the spacing at which they were recorded, whatever their stamps
    say. Of a pause longer than LONGEST_GAP that much is kept, and `say` gets a sentence about it; frames that were not
    recorded after the one before them follow at the spacing of those before. A recording keeps its stamps in either
    case; stamps of other sources are `now` plus the time when the frame is due. With `loop` the source repeats
    forever, each round's stamps shifted by the source's length so that they go on rising while they fit into a header.

    The clock shows when a recording was recorded, shifted like its stamps, and else the stamps. It always rises.
    """
    played = 0
    shift = 0
    due, usual = 0.0, GAP
    clock = 0
    while True:
        stamps: list[int] = []
        before: int | None = None
        for frame in source:
            if before is not None:
                gap = (frame.time - before) / SECOND
                if gap > LONGEST_GAP and not rate:
                    say(f"A pause of {gap:g} s in {source.name} is played as {LONGEST_GAP:g} s.")
                usual = min(gap, LONGEST_GAP) if gap > 0 else usual
            due += usual if played else 0
            before = frame.time
            stamps.append(frame.stamp)
            moment = played / rate if rate else due
            stamp = frame.stamp + shift if source.recorded else now + round(moment * SECOND)
            reached = frame.time + shift if source.recorded else stamp
            clock = reached if reached > clock else clock + round(usual * SECOND)
            yield Event(moment, stamp, clock, frame)
            played += 1
        if not loop or not stamps:
            return
        length = max(stamps) - min(stamps)
        shift += length + (round(length / (len(stamps) - 1)) if length else round(GAP * SECOND))
        if max(stamps) + shift >= LAST_STAMP:
            shift = 0


def clock_at(before: Event, after: Event, moment: float) -> int:
    """What the clock shows at a moment between two frames, in nanoseconds; `moment` is in seconds from the start."""
    share = (moment - before.due) / (after.due - before.due)
    return before.clock + round(share * (after.clock - before.clock))


def main() -> None:
    """Play until the source ends or the node is interrupted; bad input is logged as one sentence, with exit code 2."""
    run("camera", lambda: CameraNode().play())


if __name__ == "__main__":
    main()
