"""The topics of taught objects of one camera: those that show an object, and those that say where it is."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header, UInt16

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.nodes.detections import taught_detections_message, taught_label_info_message, vision
from dino_ros.nodes.distributions import publisher_events
from dino_ros.nodes.messages import mask_message, tensor_message
from dino_ros.nodes.qos import overridable
from dino_ros.perception.perceiver import Perception
from dino_ros.perception.pipeline import CLOSER, IMAGE, TAUGHT, PreparedFrame
from dino_ros.perception.pointing import object_in_box
from dino_ros.taught.click import mask_at
from dino_ros.taught.looks import Look, look_at

FOLDER = "taught"
"""Topics of all taught objects together are below it."""
TEACH = "teach"
"""Topics that show an object are below it."""
QOS = {"depth": 5, "liveliness": LivelinessPolicy.AUTOMATIC}
LABEL_INFO_QOS = {**QOS, "depth": 1, "durability": DurabilityPolicy.TRANSIENT_LOCAL}

TAUGHT_OBJECTS = "taught objects (looks)"
"""Key of the node's report, whose value is as in `cup (2), pen (1)`."""

Pick = Callable[[PreparedFrame, Perception], NDArray[np.uint8]]
"""From a frame and what was seen in it to the mask [H, W] of what is shown; raises UserError if there is nothing."""
Box = tuple[float, ...]
"""In pixels: x and y of the left upper corner, width and height."""
Learn = Callable[[Look, str], str]
"""Takes in a look and how it was shown, and returns what to say of it; raises UserError or OSError if it cannot."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Something that was shown and waits for the next frame."""

    how: str
    """click, box, mask or object."""
    pick: Pick
    needs: frozenset[str]
    """What `pick` reads of a frame: outputs of the Perceiver, and others that the pipeline names."""
    box: Box | None = None
    """Where `pick` needs a closer look."""


def say_looks(looks: Mapping[str, Sequence[Look]]) -> str:
    """For TAUGHT_OBJECTS: the names of objects and how many looks there are at each."""
    return ", ".join(f"{name} ({len(of_one)})" for name, of_one in looks.items())


def read_looks(said: str) -> dict[str, int]:
    """How many looks there are at each object, by its name, of what `say_looks` said."""
    return {name: int(count) for name, count in re.findall(r"(\w+) \((\d+)\)", said)}


class TaughtTopics:
    """The topics of taught objects of one camera.

    What is shown holds for the camera's next frame: hold the object still. Its features are then computed even if
    nobody listens to a result.
    """

    def __init__(self, node: Any, prefix: str, learn: Learn, changed: Callable[[], None]) -> None:
        """`changed` is called whenever `wanted` may have changed."""
        self._node = node
        self._prefix = prefix
        self._learn = learn
        self._changed = changed
        self._lock = threading.Lock()
        self._lessons: list[Lesson] = []
        self._outputs: dict[str, Publisher] = {}
        self._names: frozenset[str] = frozenset()
        self._listened: frozenset[str] = frozenset()
        self._together = f"{FOLDER}/detections"
        self._label_info = f"{FOLDER}/label_info"
        inputs: dict[str, tuple[type, Callable[[Any], None]]] = {
            "click": (PointStamped, lambda message: self._click(message.point)),
            "point": (Point, self._click),
            "box": (RegionOfInterest, self._region),
            "mask": (Image, self._mask),
            "object": (UInt16, self._object),
            **({"bounding_box": (vision.BoundingBox2D, self._bounding_box)} if vision else {}),
        }
        self._inputs = [
            node.create_subscription(kind, f"{prefix}{TEACH}/{name}", receive, 10)
            for name, (kind, receive) in inputs.items()
        ]

    def advertise(self, names: Collection[str], active: bool) -> None:
        """Have the topics of these objects, and of no others; what is published goes out if the node is `active`."""
        wanted = {
            **{f"{name}/{kind}": Image for name in names for kind in ("mask", "similarity")},
            **(
                {self._together: vision.Detection2DArray, self._label_info: vision.LabelInfo}
                if vision and names
                else {}
            ),
        }
        with self._lock:
            gone = {topic: self._outputs.pop(topic) for topic in self._outputs.keys() - wanted.keys()}
            new = {topic: kind for topic, kind in wanted.items() if topic not in self._outputs}
            self._names = frozenset(names)
        for publisher in gone.values():
            self._node.destroy_lifecycle_publisher(publisher)
        for topic, kind in new.items():
            publisher = self._advertise(topic, kind)
            if active:
                publisher.on_activate(None)
            with self._lock:
                self._outputs[topic] = publisher
        if active:
            self.say_names()
        self._changed()

    def _advertise(self, topic: str, kind: type) -> Publisher:
        profile = QoSProfile(**LABEL_INFO_QOS if topic == self._label_info else QOS)
        return self._node.create_lifecycle_publisher(
            kind,
            self._prefix + topic,
            profile,
            event_callbacks=publisher_events(
                matched=lambda event: self._changed(), incompatible_qos=lambda event: None
            ),
            qos_overriding_options=overridable(self._node, "publisher", self._prefix + topic, profile),
        )

    def say_names(self) -> None:
        """Publish which names the detections have; latched."""
        with self._lock:
            publisher, names = self._outputs.get(self._label_info), sorted(self._names)
        if publisher is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            publisher.publish(taught_label_info_message(names, header))

    def destroy(self) -> None:
        """Remove all topics."""
        self.advertise((), active=False)
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        self._inputs = []

    def wanted(self) -> frozenset[str]:
        """What the pipeline has to make for the next frame; looks who listens."""
        with self._lock:
            heard = [topic for topic, output in self._outputs.items() if self._is_heard(topic, output)]
            self._listened = frozenset(heard)
            found = {TAUGHT} if heard else set()
            return frozenset(found).union(*(lesson.needs for lesson in self._lessons))

    def _is_heard(self, topic: str, output: Publisher) -> bool:
        return bool(topic != self._label_info and self._node.context.ok() and output.get_subscription_count() > 0)

    def look_closer(self, frame: PreparedFrame) -> None:
        """Keep the masks of what is in the boxes that were shown; runs in the thread that runs the student."""
        rgb = frame.image.rgb
        assert rgb is not None  # the boxes need it
        with self._lock:
            boxes = {lesson.box for lesson in self._lessons if lesson.box}
        for box in boxes:
            try:
                frame.closer[box] = object_in_box(frame.perceiver, rgb, *box)
            except UserError as error:
                frame.closer[box] = error

    def deliver(self, frame: PreparedFrame, perception: Perception, header: Any) -> None:
        """Learn what was shown, and publish where the objects are."""
        with self._lock:
            ready = [lesson for lesson in self._lessons if lesson.needs <= frame.wanted]
            lessons = [lesson for lesson in ready if lesson.box is None or lesson.box in frame.closer]
            self._lessons = [lesson for lesson in self._lessons if lesson not in lessons]
            outputs = {topic: self._outputs[topic] for topic in self._listened & self._outputs.keys()}
        for name, sighting in perception.taught.items():
            if output := outputs.get(f"{name}/mask"):
                output.publish(mask_message(sighting.mask, header))
            if output := outputs.get(f"{name}/similarity"):
                output.publish(tensor_message(sighting.similarity[..., None], header))
        if TAUGHT in frame.wanted and (output := outputs.get(self._together)):
            output.publish(taught_detections_message(perception.taught, header))
        for lesson in lessons:
            self._take(lesson, frame, perception)
        if lessons:
            self._changed()

    def _take(self, lesson: Lesson, frame: PreparedFrame, perception: Perception) -> None:
        """Learn from a lesson, and say so."""
        rgb, features = frame.image.rgb, perception.features
        assert rgb is not None  # the lesson needs both
        assert features is not None
        try:
            look = look_at(
                features, rgb, lesson.pick(frame, perception), not self._node.get_parameter("teach_not").value
            )
            self._node.get_logger().info(self._learn(look, lesson.how))
        except (UserError, OSError) as error:
            self._node.get_logger().warning(str(error))

    def _show(self, how: str, pick: Pick, also: Collection[str] = (), box: Box | None = None) -> None:
        """Keep a lesson for the next frame, if an object is being taught."""
        if not self._node.get_parameter("teach").value:
            topic = self._node.resolve_topic_name(self._prefix + TEACH)
            self._node.get_logger().warning(
                f"A {how} came on {topic}, but no object is being taught: name it first, as in `ros2 param set "
                f"{self._node.get_fully_qualified_name()} teach cup`."
            )
            return
        with self._lock:
            self._lessons.append(Lesson(how, pick, frozenset({"features", IMAGE, *also}), box))
        self._changed()

    def _click(self, point: Any) -> None:
        def pick(frame: PreparedFrame, perception: Perception) -> NDArray[np.uint8]:
            assert perception.features is not None
            return mask_at(perception.features, frame.image.size, point.x, point.y)

        self._show("click", pick)

    def _region(self, region: Any) -> None:
        self._box(region.x_offset, region.y_offset, region.width, region.height)

    def _bounding_box(self, box: Any) -> None:
        center = box.center.position
        self._box(center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y)

    def _box(self, *box: float) -> None:
        def pick(frame: PreparedFrame, perception: Perception) -> NDArray[np.uint8]:
            found: NDArray[np.uint8] | UserError = frame.closer[box]
            if isinstance(found, UserError):
                raise found
            return found

        self._show("box", pick, (CLOSER,), box)

    def _mask(self, message: Any) -> None:
        def pick(frame: PreparedFrame, perception: Perception) -> NDArray[np.uint8]:
            mask: NDArray[np.uint8] = to_rgb(message).max(axis=2)
            return mask

        self._show("mask", pick)

    def _object(self, message: Any) -> None:
        def pick(frame: PreparedFrame, perception: Perception) -> NDArray[np.uint8]:
            assert perception.objects is not None
            if message.data == 0 or not (perception.objects == message.data).any():
                raise UserError(f"No object has the number {message.data} now: see {self._prefix}objects.")
            mask: NDArray[np.uint8] = np.multiply(perception.objects == message.data, 255, dtype=np.uint8)
            return mask

        self._show("object", pick, ("objects",))
