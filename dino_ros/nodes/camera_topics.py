"""One camera of the perception node: its subscription, the topics of its results, its rate, its diagnostics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.errors import UserError
from dino_ros.images.overlay import overlay
from dino_ros.nodes.camera_thread import CameraThread
from dino_ros.nodes.detections import detections_message, vision
from dino_ros.nodes.diagnostics import Diagnostics
from dino_ros.nodes.messages import labels_message, mask_message, rgb_message, tensor_message
from dino_ros.nodes.throttle import Throttle
from dino_ros.nodes.wire import header_of, read_image
from dino_ros.perception.perceiver import Perception
from dino_ros.perception.pipeline import IMAGE, Frame, Pipeline

OUTPUT_TOPICS: dict[str, type] = {
    "attention_mask": Image,
    "objects": Image,
    "attention": Image,
    "features": Image,
    "embedding": Image,
    "overlay": Image,
    **({"detections": vision.Detection2DArray} if vision else {}),
}
"""The results' topics and their types."""
NEEDS = {
    "attention_mask": {"mask"},
    "objects": {"objects"},
    "detections": {"objects"},
    "attention": {"attention"},
    "features": {"features"},
    "embedding": {"embedding"},
    "overlay": {"mask", "attention", IMAGE},
}
"""What the pipeline must make for each topic."""
WARN_EVERY = 5.0
"""Seconds between two warnings about frames that cannot be used."""


class RosCamera:
    """Implements `pipeline.Camera`.

    The results' topics are there from the beginning to `destroy`. The camera itself is subscribed to only between
    `activate` and `deactivate`, and only while somebody subscribes to one of its results.
    """

    def __init__(self, node: Any, name: str, compressed: bool, reliability: str, thread: CameraThread) -> None:
        prefix = f"{name}/" if name else ""
        self.name = name
        self.throttle = Throttle()
        self.diagnostics = Diagnostics()
        self._node = node
        self._thread = thread
        self._type = CompressedImage if compressed else Image
        self._topic = f"{prefix}image/compressed" if compressed else f"{prefix}image"
        self._qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._subscription: Subscription | None = None
        self._listened: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()
        events = PublisherEventCallbacks(matched=lambda event: self.look_for_listeners())
        self._outputs: dict[str, Publisher] = {}  # a topic may be matched while the next one is being advertised
        self._outputs = {
            topic: node.create_lifecycle_publisher(kind, prefix + topic, 5, event_callbacks=events)
            for topic, kind in OUTPUT_TOPICS.items()
        }

    @property
    def image_topic(self) -> str:
        """Full name of the camera's topic."""
        return str(self._node.resolve_topic_name(self._topic))

    def activate(self, pipeline: Pipeline) -> None:
        """Send frames into a pipeline from now on."""
        with self._lock:
            self._pipeline = pipeline
        self.look_for_listeners()

    def deactivate(self) -> None:
        """Leave the camera."""
        with self._lock:
            self._pipeline = None
        self.look_for_listeners()

    def destroy(self) -> None:
        """Leave the camera and let the topics go."""
        self.deactivate()
        with self._lock:
            outputs, self._outputs = self._outputs, {}
        for publisher in outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def look_for_listeners(self) -> None:
        """See who subscribes to what, and subscribe to the camera or leave it accordingly."""
        with self._lock:
            listened = [topic for topic, output in self._outputs.items() if self._is_heard(output)]
            self._listened = frozenset(listened)
            self._wanted = frozenset().union(*(NEEDS[topic] for topic in listened))
            needed = self._pipeline is not None and bool(listened)
            if needed and self._subscription is None:
                # Raw: the bytes as they came, which `wire` reads without another copy.
                self._subscription = self._node.create_subscription(
                    self._type,
                    self._topic,
                    self._receive,
                    self._qos,
                    callback_group=self._thread.group,
                    event_callbacks=SubscriptionEventCallbacks(message_lost=self._lose),
                    raw=True,
                )
            elif not needed and self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
                self._subscription = None
            else:
                return
        self._thread.wake()

    def _is_heard(self, output: Publisher) -> bool:
        return bool(self._node.context.ok() and output.get_subscription_count() > 0)

    def _receive(self, data: bytes) -> None:
        """Take a frame in; runs in the cameras' thread."""
        pipeline = self._pipeline
        self.diagnostics.received(len(data))
        try:
            message = read_image(data, self._type is CompressedImage)
        except UserError as error:
            self.failed(str(error))
            return
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        if pipeline is not None and self.throttle.lets_pass(time.monotonic()):
            pipeline.offer(self, message, stamp)

    def _lose(self, event: QoSMessageLostInfo) -> None:
        """Count what DDS lost; runs in the cameras' thread."""
        self.diagnostics.lost(event.total_count_change)

    def listened(self) -> bool:
        """Whether anybody subscribes to a result."""
        return bool(self._listened)

    def wanted(self) -> frozenset[str]:
        """What the present subscribers need."""
        return self._wanted

    def superseded(self) -> None:
        """Count it."""
        self.diagnostics.superseded()

    def failed(self, sentence: str) -> None:
        """Warn of it."""
        self.diagnostics.problem(sentence)
        self._node.get_logger().warning(sentence, throttle_duration_sec=WARN_EVERY)

    def deliver(self, frame: Frame, seen: Perception) -> None:
        """Publish what is subscribed to, the mask first."""
        header = header_of(frame.message)
        for topic, make in MESSAGES.items():
            if topic in self._listened and NEEDS[topic] <= frame.wanted:
                self._outputs[topic].publish(make(frame, seen, header))
        self.diagnostics.published(time.monotonic() - frame.arrived)


MESSAGES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "attention_mask": lambda frame, seen, header: mask_message(seen.mask, header),
    "objects": lambda frame, seen, header: labels_message(seen.objects, header),
    "detections": lambda frame, seen, header: detections_message(seen.objects, header),
    "attention": lambda frame, seen, header: tensor_message(seen.attention.transpose(1, 2, 0), header),
    "features": lambda frame, seen, header: tensor_message(seen.features, header),
    "embedding": lambda frame, seen, header: tensor_message(seen.embedding[None, None], header),
    "overlay": lambda frame, seen, header: rgb_message(overlay(frame.rgb, seen.mask, seen.attention), header),
}
"""How the message of each topic is made of a frame, its Perception and its header."""
