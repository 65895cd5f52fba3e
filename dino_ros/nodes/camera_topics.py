"""The topics of one camera: the subscription to its images and the publishers of its results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.encodings import as_intensity
from dino_ros.images.overlay import overlay
from dino_ros.images.stamps import stamp_ns
from dino_ros.masks.descriptors import object_descriptors
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.detections import detections_message, label_info_message, vision
from dino_ros.nodes.diagnostics import Diagnostics
from dino_ros.nodes.distributions import QoSMessageLostInfo, SubscriptionEventCallbacks, publisher_events
from dino_ros.nodes.matching import (
    COMPRESSED,
    RAW,
    Silence,
    why_publishers_do_not_match,
    why_silent,
    why_subscriptions_do_not_match,
)
from dino_ros.nodes.messages import jpeg_message, labels_message, mask_message, rgb_message, tensor_message
from dino_ros.nodes.qos import overridable
from dino_ros.nodes.taught_topics import Learn, TaughtTopics
from dino_ros.nodes.throttle import Throttle
from dino_ros.nodes.wire import header_of, read_image
from dino_ros.perception.perceiver import Perception
from dino_ros.perception.pipeline import COLORS, IMAGE, Pipeline, PreparedFrame

OUTPUT_TOPICS: dict[str, type] = {
    "attention_mask": Image,
    "objects": Image,
    "object_descriptors": Image,
    "attention": Image,
    "features": Image,
    "embedding": Image,
    "features_rgb": Image,
    "overlay": Image,
    "overlay/compressed": CompressedImage,
    **({"detections": vision.Detection2DArray} if vision else {}),
}
"""Result topics and their message types."""
NEEDS = {
    "attention_mask": {"mask"},
    "objects": {"objects"},
    "object_descriptors": {"objects", "features"},
    "detections": {"objects"},
    "attention": {"attention"},
    "features": {"features"},
    "embedding": {"embedding"},
    "features_rgb": {"features", COLORS},
    "overlay": {"mask", "attention", IMAGE},
    "overlay/compressed": {"mask", "attention", IMAGE},
}
"""What the pipeline has to make for each topic."""
QOS = {"depth": 5, "liveliness": LivelinessPolicy.AUTOMATIC}
"""Of all topics. The liveliness is that of ROS's default, by name: rclpy cannot compare a default with a profile."""
LABEL_INFO = "label_info"
"""Topic of the names of the detections' classes; beside the results, as vision_msgs asks for."""
LABEL_INFO_QOS = {**QOS, "depth": 1, "durability": DurabilityPolicy.TRANSIENT_LOCAL}
"""Latched: it is published once, and whoever subscribes later gets it too."""
WARN_EVERY = 5.0
"""Seconds between two warnings about unusable frames."""
WARN_OF_LOSS_EVERY = 30.0
"""Seconds between two warnings about frames that are lost in transport."""
SILENCE = 5.0
"""Seconds without a frame after which the node says why."""


def image_topic(node: Any, image: str, compressed: bool) -> str:
    """Full name of the topic `image`, or of the compressed images beside it, after the command line's remappings.

    As with image_transport, a remapping of `image` also moves the compressed images, unless they have one of their own.
    """
    beside = f"{image}/compressed"
    if not compressed:
        return str(node.resolve_topic_name(image))
    if node.resolve_topic_name(beside) != node.resolve_topic_name(beside, only_expand=True):
        return str(node.resolve_topic_name(beside))
    return f"{node.resolve_topic_name(image)}/compressed"


class CameraTopics:
    """The topics of one camera, with its throttle and its diagnostics. Implements `pipeline.Camera`.

    The result topics exist until `destroy`. The image topic is subscribed to only between `activate` and `deactivate`,
    and only while somebody subscribes to a result.
    """

    def __init__(
        self,
        node: Any,
        name: str,
        compressed: bool,
        reliability: str,
        thread: CallbackThread,
        learn: Learn,
        intensity: bool = False,
    ) -> None:
        prefix = f"{name}/" if name else ""
        self.name = name
        self.throttle = Throttle()
        self.diagnostics = Diagnostics()
        self._node = node
        self._thread = thread
        self._intensity = intensity
        self._type = CompressedImage if compressed else Image
        self._type_name = COMPRESSED if compressed else RAW
        self._image_name = f"{prefix}image/compressed" if compressed else f"{prefix}image"
        self.image_topic = image_topic(node, f"{prefix}image", compressed)
        """Full name of the image topic."""
        self._qos = QoSProfile(**QOS, reliability=ReliabilityPolicy[reliability.upper()])
        self._overriding = overridable(node, "subscription", self.image_topic, self._qos)
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._subscription: Subscription | None = None
        self._listened: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()
        self._unmatched: set[str] = set()
        """Topics, OUTPUT_TOPICS or the image topic, on which somebody was met whose QoS does not match."""
        self._wrong: dict[str, str] = {}
        """By topic, what the last report found wrong with who is at its other end."""
        self._said: dict[str, str] = {}
        """By topic, what was logged of that."""
        self.taught = TaughtTopics(node, prefix, learn, self.look_for_listeners)
        self._outputs: dict[str, Publisher] = {}  # a topic may be matched while the next one is being advertised
        self._outputs = {topic: self._advertise(prefix, topic) for topic in OUTPUT_TOPICS}
        self._label_info = self._advertise_label_info(prefix) if vision else None

    def _advertise(self, prefix: str, topic: str) -> Publisher:
        events = publisher_events(
            matched=lambda event: self.look_for_listeners(),
            incompatible_qos=lambda event: self._unmatched.add(topic),
        )
        profile = QoSProfile(**QOS)
        return self._node.create_lifecycle_publisher(
            OUTPUT_TOPICS[topic],
            prefix + topic,
            profile,
            event_callbacks=events,
            qos_overriding_options=overridable(self._node, "publisher", prefix + topic, profile),
        )

    def _advertise_label_info(self, prefix: str) -> Publisher:
        profile = QoSProfile(**LABEL_INFO_QOS)
        return self._node.create_lifecycle_publisher(
            vision.LabelInfo,
            prefix + LABEL_INFO,
            profile,
            qos_overriding_options=overridable(self._node, "publisher", prefix + LABEL_INFO, profile),
        )

    def activate(self, pipeline: Pipeline) -> None:
        """Feed frames to a pipeline from now on, and say what the detections' classes are called."""
        if self._label_info:
            self._label_info.publish(label_info_message(Header(stamp=self._node.get_clock().now().to_msg())))
        self.taught.say_names()
        with self._lock:
            self._pipeline = pipeline
        self.look_for_listeners()

    def deactivate(self) -> None:
        """Unsubscribe from the images; the result topics stay."""
        with self._lock:
            self._pipeline = None
        self.look_for_listeners()

    def destroy(self) -> None:
        """Unsubscribe from the images and remove the result topics."""
        self.deactivate()
        self.taught.destroy()
        with self._lock:
            outputs, self._outputs = self._outputs, {}
        for publisher in outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)
        if self._label_info:
            self._node.destroy_lifecycle_publisher(self._label_info)

    def look_for_listeners(self) -> None:
        """Check which results have subscribers, and subscribe to the images or unsubscribe accordingly."""
        with self._lock:
            listened = [topic for topic, output in self._outputs.items() if self._is_heard(output)]
            self._listened = frozenset(listened)
            self._wanted = self.taught.wanted().union(*(NEEDS[topic] for topic in listened))
            needed = self._pipeline is not None and bool(self._wanted)
            if needed and self._subscription is None:
                self.diagnostics.subscribed()
                # Raw: the serialized bytes, which `wire` reads without another copy.
                self._subscription = self._node.create_subscription(
                    self._type,
                    self.image_topic,
                    self._receive,
                    self._qos,
                    callback_group=self._thread.group,
                    event_callbacks=SubscriptionEventCallbacks(
                        message_lost=self._on_lost,
                        incompatible_qos=lambda event: self._unmatched.add(self.image_topic),
                    ),
                    qos_overriding_options=self._overriding,
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
        """Take in a serialized image message; runs in the callback thread."""
        pipeline = self._pipeline
        self.diagnostics.received(len(data))
        try:
            message = read_image(data, self._type is CompressedImage)
            if self._intensity:
                message = as_intensity(message)
        except UserError as error:
            self.failed(str(error))
            return
        if pipeline is not None and self.throttle.lets_pass(time.monotonic()):
            pipeline.offer(self, message, stamp_ns(message))

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        """Count the frames that DDS lost; runs in the callback thread."""
        self.diagnostics.lost(event.total_count_change)
        if warning := self.diagnostics.transport_warning():
            self._node.get_logger().warning(warning, throttle_duration_sec=WARN_OF_LOSS_EVERY)

    def report(self, name: str, state: str, seconds: float, facts: dict[str, str], failure: str) -> DiagnosticStatus:
        """Look who is at the other ends of the topics, warn of what is new and wrong there, and report.

        The arguments are those of `Diagnostics.report`.
        """
        self.look_for_listeners()  # also here: an event may be missed, and Humble has none
        silence, mismatches = self._why_silent(), self._mismatches()
        self._log(mismatches | ({self.image_topic: silence.reason} if silence else {}))
        facts = {**facts, "image topic": self.image_topic}
        mismatch = " ".join(mismatches.values())
        return self.diagnostics.report(name, state, seconds, self.listened(), facts, failure, silence, mismatch)

    def _log(self, wrong: dict[str, str]) -> None:
        """Warn of what is wrong, by topic, once; of what the last report found too, since names come a moment later."""
        for topic, sentence in wrong.items():
            if sentence == self._wrong.get(topic) and sentence != self._said.get(topic):
                self._node.get_logger().warning(sentence)
                self._said[topic] = sentence
        for topic in self._said.keys() - wrong.keys():
            del self._said[topic]
        self._wrong = wrong

    def _why_silent(self) -> Silence | None:
        """Why no image has come for SILENCE seconds; None if one has, or none is waited for."""
        if self._subscription is None or self.diagnostics.silent_for() < SILENCE:
            return None
        publishers = self._node.get_publishers_info_by_topic(self.image_topic)
        return why_silent(self.image_topic, self._image_name, self._type_name, publishers, self._qos)

    def _mismatches(self) -> dict[str, str]:
        """By topic, a sentence on whoever is at its other end with a QoS that does not match."""
        sentences: dict[str, str] = {}
        for topic in tuple(self._unmatched):
            output = self._outputs.get(topic)
            if output is not None:
                subscriptions = self._node.get_subscriptions_info_by_topic(output.topic_name)
                sentences[topic] = why_subscriptions_do_not_match(output.topic_name, subscriptions, output.qos_profile)
            elif self._subscription is not None:
                publishers = self._node.get_publishers_info_by_topic(topic)
                fitting = [publisher for publisher in publishers if publisher.topic_type == self._type_name]
                sentences[topic] = why_publishers_do_not_match(topic, fitting, self._qos)
        return {topic: sentence for topic, sentence in sentences.items() if sentence}

    def listened(self) -> bool:
        """Whether any result is needed."""
        return bool(self._wanted)

    def wanted(self) -> frozenset[str]:
        """What the current subscribers need."""
        return self._wanted

    def superseded(self) -> None:
        self.diagnostics.superseded()

    def failed(self, sentence: str) -> None:
        self.diagnostics.problem(sentence)
        self._node.get_logger().warning(f"{self.image_topic}: {sentence}", throttle_duration_sec=WARN_EVERY)

    def look_closer(self, frame: PreparedFrame) -> None:
        self.taught.look_closer(frame)

    def deliver(self, frame: PreparedFrame, perception: Perception) -> None:
        """Publish the results that have subscribers, the mask first."""
        header = header_of(frame.arrived.message)
        results = Results(frame, perception)
        for topic, make in MESSAGES.items():
            if topic in self._listened and NEEDS[topic] <= frame.wanted:
                self._outputs[topic].publish(make(results, header))
        self.taught.deliver(frame, perception, header)
        self.diagnostics.published(time.monotonic() - frame.arrived.received_at)


@dataclass(frozen=True, eq=False)
class Results:
    """What the messages about a frame are made of."""

    frame: PreparedFrame
    perception: Any
    """A Perception that has what the messages need."""

    @property
    def features_rgb(self) -> NDArray[np.uint8]:
        """[h, w, 3] on the patch grid."""
        return self.frame.perceiver.feature_colors.rgb(self.perception.features)

    @property
    def object_descriptors(self) -> NDArray[np.float32]:
        """[N, 1, C], a row per object."""
        return object_descriptors(self.perception.features, self.perception.objects)[:, None]

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """RGB [H, W, 3], drawn once for both of its topics."""
        image: Any = self.frame.image.rgb
        return overlay(image, self.perception.mask, self.perception.attention)


MESSAGES: dict[str, Callable[[Results, Any], Any]] = {
    "attention_mask": lambda r, header: mask_message(r.perception.mask, header),
    "objects": lambda r, header: labels_message(r.perception.objects, header),
    "object_descriptors": lambda r, header: tensor_message(r.object_descriptors, header),
    "detections": lambda r, header: detections_message(r.perception.objects, header),
    "attention": lambda r, header: tensor_message(r.perception.attention.transpose(1, 2, 0), header),
    "features": lambda r, header: tensor_message(r.perception.features, header),
    "embedding": lambda r, header: tensor_message(r.perception.embedding[None, None], header),
    "features_rgb": lambda r, header: rgb_message(r.features_rgb, header),
    "overlay": lambda r, header: rgb_message(r.overlay, header),
    "overlay/compressed": lambda r, header: jpeg_message(r.overlay, header),
}
"""How each topic's message is made from a frame's results and its header."""
