"""The topics of the depth node: masks, depth and camera in, objects in meters out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from dino_ros.depth.images import Pinhole, depth_meters
from dino_ros.depth.objects import LocatedObject, locate
from dino_ros.depth.pairing import Frame, Pairing
from dino_ros.depth.surface import Surface
from dino_ros.errors import UserError, quoted
from dino_ros.images.encodings import to_rgb
from dino_ros.images.stamps import SECOND, stamp_fields, stamp_ns
from dino_ros.masks.objects import number_objects
from dino_ros.messages import to_array
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import QOS, SILENCE, WARN_EVERY, image_topic
from dino_ros.nodes.detections import CLASS_NAME, vision
from dino_ros.nodes.diagnostics import Diagnostics
from dino_ros.nodes.distributions import publisher_events
from dino_ros.nodes.matching import COMPRESSED, RAW, Silence, why_silent
from dino_ros.nodes.objects_3d import ObjectIn3D, cloud_message, detections_3d_message
from dino_ros.nodes.qos import overridable
from dino_ros.nodes.transforms import Transforms
from dino_ros.nodes.wire import read_image

CLOUD, BOXES = "points", "objects_3d"
OUTPUT_TOPICS: dict[str, type] = {CLOUD: PointCloud2, **({BOXES: vision.Detection3DArray} if vision else {})}
"""Result topics and their message types."""
MAKE = {CLOUD: cloud_message, BOXES: detections_3d_message}
"""How each topic's message is made of the objects and a header."""
DEPTH, INFO, COLOR = "depth/image", "depth/camera_info", "image"
"""Inputs besides the masks, before remapping."""
MASKS = "the perception node"
"""Who publishes masks."""
OBJECTS = "objects"
"""The name that stands for all objects, by number."""
NUMBERS = 2**16
"""How many numbers each name has; those of `objects` are smaller than that of any other name."""
PART = 0.05
"""Least share of a named mask that a part of it must have, to be an object and no crumb."""
COLORS_KEPT = 30
"""Images of the camera that wait for their masks: one second at 30 Hz, 28 MB at 640x480."""


def mask_topic(name: str) -> str:
    """The topic of the masks of a name, before remapping."""
    return OBJECTS if name == OBJECTS else f"{name}/mask"


@dataclass(frozen=True)
class Settings:
    """The node's parameters; see `parameters.DEPTH_PARAMETERS`."""

    names: list[str]
    slop: float
    color: bool
    image_transport: str
    reliability: str


class Arrived(NamedTuple):
    """A message and when it came."""

    message: Any
    at: float
    """Of the monotonic clock."""


@dataclass(frozen=True)
class Input:
    """A topic that is subscribed to while results are wanted."""

    name: str
    """Before remapping."""
    topic: str
    kind: type
    type_name: str
    profile: QoSProfile
    receive: Callable[[Any], None]
    raw: bool
    """Whether `receive` takes serialized messages."""
    source: str
    """Who should publish on it."""


class DepthTopics:
    """The topics and what is done between them, in one callback thread.

    The results' topics exist until `destroy`. The inputs are subscribed to only between `activate` and `deactivate`,
    and only while somebody subscribes to a result; the camera's image only for the points.
    """

    def __init__(self, node: Any, settings: Settings, transforms: Transforms | None, thread: CallbackThread) -> None:
        self._node = node
        self._settings = settings
        self._transforms = transforms
        self._thread = thread
        self._diagnostics = Diagnostics()
        self._pairing: Pairing[Arrived, Any] = Pairing(round(settings.slop * SECOND))
        self._colors: deque[tuple[int, Any]] = deque(maxlen=COLORS_KEPT)
        self._info: CameraInfo | None = None
        self._without_depth = 0
        self._missing = ""
        """Why there is no depth, as it was logged; empty if there is."""
        self._unregistered = ""
        """What speaks against the depth image being registered to the masks; empty if nothing does."""
        self._wrong: dict[str, str] = {}
        """By topic, what the last report found wrong with it."""
        self._lock = threading.Lock()
        self._active = False
        self._listened: frozenset[str] = frozenset()
        self._subscriptions: dict[str, Subscription] = {}
        self._inputs = {one.topic: one for one in self._make_inputs()}
        self._overriding = {
            topic: overridable(node, "subscription", topic, one.profile) for topic, one in self._inputs.items()
        }
        self._outputs: dict[str, Publisher] = {}  # a topic may be matched while the next one is being advertised
        self._outputs = {topic: self._advertise(topic) for topic in OUTPUT_TOPICS}

    def _make_inputs(self) -> list[Input]:
        resolve = self._node.resolve_topic_name
        camera = QoSProfile(**QOS, reliability=ReliabilityPolicy[self._settings.reliability.upper()])
        inputs = [
            Input(DEPTH, resolve(DEPTH), Image, RAW, camera, self._receive_depth, True, "the depth camera"),
            Input(
                INFO,
                resolve(INFO),
                CameraInfo,
                "sensor_msgs/msg/CameraInfo",
                camera,
                self._receive_info,
                False,
                "the depth camera",
            ),
        ]
        for name in self._settings.names:
            topic = mask_topic(name)

            def receive(data: bytes, name: str = name) -> None:
                self._receive_mask(name, data)

            inputs.append(Input(topic, resolve(topic), Image, RAW, QoSProfile(**QOS), receive, True, MASKS))
        if self._settings.color:
            compressed = self._settings.image_transport == "compressed"
            topic = image_topic(self._node, COLOR, compressed)
            kind, type_name = (CompressedImage, COMPRESSED) if compressed else (Image, RAW)
            inputs.append(Input(COLOR, topic, kind, type_name, camera, self._receive_color, True, "the camera"))
        return inputs

    def _advertise(self, topic: str) -> Publisher:
        profile = QoSProfile(**QOS)
        return self._node.create_lifecycle_publisher(
            OUTPUT_TOPICS[topic],
            topic,
            profile,
            event_callbacks=publisher_events(
                matched=lambda event: self.look_for_listeners(), incompatible_qos=lambda event: None
            ),
            qos_overriding_options=overridable(self._node, "publisher", topic, profile),
        )

    def activate(self) -> None:
        """Subscribe to the inputs whenever somebody wants a result."""
        with self._lock:
            self._active = True
        self.look_for_listeners()

    def deactivate(self) -> None:
        """Unsubscribe from the inputs; the results' topics stay."""
        with self._lock:
            self._active = False
        self.look_for_listeners()

    def destroy(self) -> None:
        """Unsubscribe, and remove the results' topics."""
        self.deactivate()
        with self._lock:
            outputs, self._outputs = self._outputs, {}
        for publisher in outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def look_for_listeners(self) -> None:
        """Check which results have subscribers, and subscribe to the inputs or unsubscribe accordingly."""
        with self._lock:
            self._listened = frozenset(topic for topic, output in self._outputs.items() if self._is_heard(output))
            wanted = {
                topic
                for topic, one in self._inputs.items()
                if self._active and (CLOUD in self._listened or (self._listened and one.name != COLOR))
            }
            if wanted == self._subscriptions.keys():
                return
            if not self._subscriptions:
                self._diagnostics.subscribed()
            for topic in self._subscriptions.keys() - wanted:
                self._node.destroy_subscription(self._subscriptions.pop(topic))
            for topic in wanted - self._subscriptions.keys():
                self._subscriptions[topic] = self._subscribe(self._inputs[topic])
            if self._transforms is not None and wanted:
                self._transforms.start()
            elif self._transforms is not None:
                self._transforms.stop()
        self._thread.wake()

    def _subscribe(self, one: Input) -> Subscription:
        return self._node.create_subscription(
            one.kind,
            one.topic,
            one.receive,
            one.profile,
            callback_group=self._thread.group,
            qos_overriding_options=self._overriding[one.topic],
            raw=one.raw,
        )

    def _is_heard(self, output: Publisher) -> bool:
        return bool(self._node.context.ok() and output.get_subscription_count() > 0)

    # What follows, until `report`, runs in the callback thread.

    def _receive_depth(self, data: bytes) -> None:
        if (message := self._read(data)) is not None:
            self._answer(self._pairing.add_depth(stamp_ns(message), message))

    def _receive_info(self, info: CameraInfo) -> None:
        self._info = info

    def _receive_color(self, data: bytes) -> None:
        if (message := self._read(data, self._settings.image_transport == "compressed")) is not None:
            self._colors.append((stamp_ns(message), message))

    def _receive_mask(self, name: str, data: bytes) -> None:
        self._diagnostics.received(len(data))
        if (message := self._read(data)) is not None:
            self._answer(self._pairing.add_mask(name, stamp_ns(message), Arrived(message, time.monotonic())))

    def _read(self, data: bytes, compressed: bool = False) -> Any:
        try:
            return read_image(data, compressed)
        except UserError as error:
            self._failed(str(error))
            return None

    def _failed(self, sentence: str) -> None:
        self._diagnostics.problem(sentence)
        self._node.get_logger().warning(sentence, throttle_duration_sec=WARN_EVERY)

    def _answer(self, frames: list[Frame[Arrived, Any]]) -> None:
        """Publish the objects of frames; of a frame that cannot be used, say why."""
        for frame in frames:
            if frame.depth is None or self._info is None:
                self._miss(self._why_no_depth(frame))
                continue
            self._missing = ""
            try:
                self._publish(frame, self._info)
            except Exception as error:  # of a message nobody foresaw
                self._failed(self._node._sentence("Locating the objects of a frame", error))

    def _miss(self, sentence: str) -> None:
        """Count a frame without depth; log why, once until there is depth again or the reason changes."""
        self._without_depth += 1
        self._diagnostics.problem(sentence)
        if sentence != self._missing:
            self._node.get_logger().warning(sentence)
        self._missing = sentence

    def _why_no_depth(self, frame: Frame[Arrived, Any]) -> str:
        depth, info = (self._node.resolve_topic_name(name) for name in (DEPTH, INFO))
        if frame.depth_is is None:
            return (
                f"No depth image has come on {depth}: start the depth camera, or remap {DEPTH} to its topic of depth "
                "that is registered to the color camera."
            )
        if frame.depth is None:
            return (
                f"No depth image on {depth} is within the {self._settings.slop:g} s of slop of a mask's stamp: check "
                "that both cameras take their stamps from one clock, or set slop."
            )
        return f"No camera_info has come on {info}: remap {INFO} to that of the depth image."

    def _publish(self, frame: Frame[Arrived, Any], info: CameraInfo) -> None:
        depth: Any = frame.depth
        surface = Surface(depth_meters(depth), Pinhole.of(info))
        ours, theirs = (one.header.frame_id for one in (depth, next(iter(frame.masks.values())).message))
        self._unregistered = (
            ""
            if ours == theirs
            else (
                f"The depth image has the frame {quoted(ours)}, the mask {quoted(theirs)}: if it is not registered to "
                "the color camera, all points are off (RealSense: align_depth.enable)."
            )
        )
        names = [name for name in self._settings.names if name in frame.masks]
        numbers = [self._numbers(name, frame.masks[name].message) for name in names]
        located = [
            (name, found) for name, objects in zip(names, locate(surface, numbers), strict=True) for found in objects
        ]
        header = Header(stamp=Time(**stamp_fields(frame.stamp)), frame_id=depth.header.frame_id)
        rgb = self._rgb(frame.stamp) if CLOUD in self._listened else None
        objects = [self._in_3d(name, found, surface, rgb) for name, found in located]
        if self._transforms is not None:
            objects = self._moved(objects, header, frame.stamp)
        for topic in self._listened:
            self._outputs[topic].publish(MAKE[topic](objects, header))
        self._diagnostics.published(time.monotonic() - max(arrived.at for arrived in frame.masks.values()))

    def _numbers(self, name: str, message: Any) -> NDArray[np.uint16]:
        """The objects [h, w] of a mask by number, 0 for background; of a name its parts, the largest first."""
        mask = to_array(message)
        if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
            raise UserError(
                f"The encoding {quoted(message.encoding)} on {self._node.resolve_topic_name(mask_topic(name))} is no "
                f"mask: publish {'16UC1' if name == OBJECTS else 'mono8'}."
            )
        if name != OBJECTS:
            apart = (mask > 0).astype(np.uint8)
            return number_objects(apart, PART * np.count_nonzero(apart), None, 1)[0]
        return mask.astype(np.uint16, copy=False)

    def _rgb(self, stamp: int) -> NDArray[np.uint8] | None:
        """The camera's image of that stamp, RGB [H, W, 3]; None if it is not known."""
        found = next((message for taken, message in self._colors if taken == stamp), None)
        return None if found is None else to_rgb(found)

    def _in_3d(self, name: str, found: LocatedObject, surface: Surface, rgb: NDArray[np.uint8] | None) -> ObjectIn3D:
        colors = None
        if rgb is not None:
            rows, columns = surface.rows_and_columns(found.points.pixels)
            colors = rgb[rows * rgb.shape[0] // surface.shape[0], columns * rgb.shape[1] // surface.shape[1]]
        if name == OBJECTS:
            return ObjectIn3D(found.points.number, CLASS_NAME, found.points.xyz, colors, found.box)
        number = NUMBERS * (1 + self._settings.names.index(name)) + found.points.number
        return ObjectIn3D(number, name, found.points.xyz, colors, found.box)

    def _moved(self, objects: list[ObjectIn3D], header: Header, stamp: int) -> list[ObjectIn3D]:
        """The objects in the frame that the user names, which the header names from now on."""
        assert self._transforms is not None
        rotation, translation = self._transforms(header.frame_id, stamp)
        header.frame_id = self._transforms.target
        turn, shift = rotation.T.astype(np.float32), translation.astype(np.float32)
        return [
            ObjectIn3D(one.number, one.name, one.xyz @ turn + shift, one.rgb, one.box.moved(rotation, translation))
            for one in objects
        ]

    def report(self, name: str, state: str, seconds: float, facts: dict[str, str], failure: str) -> DiagnosticStatus:
        """Look who is at the other ends of the topics, warn of what is new and wrong there, and report.

        The arguments are those of `Diagnostics.report`.
        """
        self.look_for_listeners()  # also here: an event may be missed, and Humble has none
        silences = {topic: self._why_silent(self._inputs[topic]) for topic in tuple(self._subscriptions)}
        wrong = {topic: silence.reason for topic, silence in silences.items() if silence.lasting}
        masks = {topic: silence for topic, silence in silences.items() if self._inputs[topic].source == MASKS}
        silent = next(iter(masks.values())) if masks and self._diagnostics.silent_for() >= SILENCE else None
        if silent is None:  # some masks come; those of a name that nobody knows never will
            absent = [topic for topic in masks if not self._node.count_publishers(topic)]
            wrong |= {topic: masks[topic].reason for topic in absent}
        if self._unregistered:
            wrong[DEPTH] = self._unregistered
        for topic, sentence in wrong.items():
            if sentence != self._wrong.get(topic):
                self._node.get_logger().warning(sentence)
        self._wrong = wrong
        facts = {
            **facts,
            "depth topic": self._node.resolve_topic_name(DEPTH),
            "frames without depth": str(self._without_depth),
        }
        listened = bool(self._listened)
        return self._diagnostics.report(
            name, state, seconds, listened, facts, failure, silent, " ".join(wrong.values())
        )

    def _why_silent(self, one: Input) -> Silence:
        publishers = self._node.get_publishers_info_by_topic(one.topic)
        return why_silent(one.topic, one.name, one.type_name, publishers, one.profile, one.source)
