"""What a running perception node publishes, for the page of `dino-ros view`; no second student is run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_srvs.srv import Trigger

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.images.stamps import stamp_ns
from dino_ros.masks.parameters import RULES
from dino_ros.messages import to_array
from dino_ros.nodes.detections import taught_scores, vision
from dino_ros.nodes.diagnostics import SUPERSEDED, UNUSABLE
from dino_ros.nodes.learner_report import NODE, learner_rows
from dino_ros.nodes.taught_topics import FOLDER, TAUGHT_OBJECTS, TEACH, read_looks
from dino_ros.view.scene import LOOKED_AT, Found, Place, PointedOut, Scene

TAUGHT = "taught"
TOPICS = {
    "mask": "attention_mask",
    "objects": "objects",
    "attention": "attention",
    "features": "features_rgb",
    "similarity": "features",
}
"""The node's topic of each of LAYERS but TAUGHT, for which every taught object has one, and all together SCORES."""
SCORES = f"{FOLDER}/detections"
"""The node's topic that has the scores of taught objects, where vision_msgs is installed."""
CAMERA = "camera"
KEPT = 30
"""Latest messages of each topic among which those with the same stamp are looked for."""
DROPPED = {
    SUPERSEDED: "superseded",
    UNUSABLE: "unusable",
    "frames lost before the node (%)": "% lost",
}
"""Keys of the node's report, and how the page says them."""
PATIENCE = 5.0
"""Seconds that the node may take to answer, to learn, and to report itself again."""
TEACHES = {"click": PointStamped, "box": RegionOfInterest}
"""Topics below the node's TEACH on which an object is pointed out, and their messages."""


def open_node(node: str, topic: str | None) -> RunningNode:
    """Start ROS, and show a node's camera: that on `topic`, or its first."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    return RunningNode(node, topic)


class RunningNode(Node):
    """Subscribes to a node's results and its camera while somebody looks; sets the parameters of its masks."""

    recording = False

    def __init__(self, node: str, topic: str | None) -> None:
        super().__init__("dino_ros_view")
        self.name = node
        self._topic = topic
        self._condition = threading.Condition()
        self._scene: Scene | None = None
        self._asked: dict[str, float] = {}
        """When the camera and each layer were last asked for."""
        self._stopped = False
        self._values: dict[str, Any] = {}
        self._facts: dict[str, str] = {}
        self._heard = 0.0
        """When the node last reported itself; what it said before is not shown for ever."""
        self._others: list[str] = []
        self._learner: tuple[str, dict[str, str], float] = "", {}, 0.0
        """What the node's learner said last, in a message and in values, and when."""
        self._prefix = ""
        self._listening: dict[str, Any] = {}
        """Subscriptions to the camera and to layers."""
        self._messages: dict[str, dict[int, Any]] = {}
        """Of each subscription, by stamp."""
        self._teaching = threading.Lock()
        """Held while an object is taught: the node learns one at a time."""
        self._lesson = 0
        self._pointed_out: tuple[str, Any] | None = None
        """The topic and the message of the last lesson."""
        self._teachers: dict[str, Any] = {}
        """Publishers to the topics of TEACHES."""
        self._taking_back = {name: self.create_client(Trigger, f"{node}/{name}") for name in ("undo", "forget")}
        self._get = self.create_client(GetParameters, f"{node}/get_parameters")
        self._set = self.create_client(SetParametersAtomically, f"{node}/set_parameters_atomically")
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_timer(0.2, self._follow)
        self.create_timer(1.0, self._ask)
        self._executor_of_page = SingleThreadedExecutor()
        self._executor_of_page.add_node(self)
        self._thread = threading.Thread(target=self._spin, name="running node", daemon=True)
        self._thread.start()

    def scene(self, after: int, seconds: float, layers: Collection[str]) -> Scene | None:
        with self._condition:
            self._ask_for(layers)
            self._condition.wait_for(lambda: self._stopped or self._newer(after), seconds)
            self._ask_for(layers)
            return self._scene if self._newer(after) else None

    def status(self) -> dict[str, str]:
        with self._condition:
            facts, silent = dict(self._facts), time.monotonic() - self._heard
        if not facts:
            return {}
        if silent > PATIENCE:
            return {"rate": f"0 Hz: {self.name} is not heard for {silent:.0f} s"}
        latency = facts.get("latency p50 (ms)", "")
        return {
            "student": PurePath(facts.get("model", "")).stem,
            "rate": f"{facts.get('output rate (Hz)', '?')} Hz",
            "latency": f"{latency} ms" if latency else "",
            "dropped": ", ".join(f"{facts.get(key, '?')} {word}" for key, word in DROPPED.items()),
            **facts,
        }

    def learner(self) -> dict[str, str]:
        with self._condition:
            (message, values, heard), model = self._learner, self._facts.get("model", "")
        silent = time.monotonic() - heard
        if not values:
            return {}
        return learner_rows(f"not heard for {silent:.0f} s" if silent > PATIENCE else message, values, model)

    def waiting_for(self) -> str:
        with self._condition:
            facts, others = dict(self._facts), list(self._others)
            if time.monotonic() - self._heard > PATIENCE:
                facts = {}
        if not facts and others:
            return f"{self.name} has no camera on {self._topic}: give --topic one of {', '.join(others)}."
        if not facts:
            return f"{self.name} is not heard: launch it, or give --node its name, and set ROS_DOMAIN_ID to its domain."
        return f"{self.name} is waiting for {facts.get('image topic', 'its camera')}. It says: {facts['message']}"

    def parameters(self) -> dict[str, Any]:
        with self._condition:
            return dict(self._values)

    def set_parameters(self, values: dict[str, Any]) -> None:
        self._set_on_node(values)
        with self._condition:
            self._values.update(values)

    def _set_on_node(self, values: dict[str, Any]) -> None:
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        result = self._call(self._set, SetParametersAtomically.Request(parameters=parameters)).result
        if not result.successful:
            raise UserError(result.reason)

    def _call(self, client: Any, request: Any) -> Any:
        """What the node answers. Raises UserError if it does not."""
        with self._condition:
            future = None if self._stopped else client.call_async(request)
            if future:
                future.add_done_callback(lambda _: self._wake())
                self._condition.wait_for(lambda: self._stopped or future.done(), PATIENCE)
        if not future or not future.done():
            raise UserError(f"{self.name} does not answer: see whether it runs, then try it again.")
        return future.result()

    def taught(self) -> dict[str, int]:
        with self._condition:
            return read_looks(self._facts.get(TAUGHT_OBJECTS, ""))

    def point_out(self, number: int, place: Place) -> PointedOut:
        """Only `teach` tells the node, which learns from the frame that comes next; so there is no picture yet."""
        with self._condition:
            if self._scene is None:
                raise UserError("There is no image yet: wait for one, then point the object out.")
            x, y, width, height = place.pixels(*self._scene.rgb.shape[:2])
            if place.is_box:
                left, top, right, bottom = map(round, (x, y, x + width, y + height))
                region = RegionOfInterest(x_offset=left, y_offset=top, width=right - left, height=bottom - top)
                self._pointed_out = "box", region
            else:
                self._pointed_out = "click", PointStamped(point=Point(x=x, y=y))
            for how in TEACHES.keys() - self._teachers.keys():  # now, so that the node knows them when there is a name
                topic = f"{self._prefix}{TEACH}/{how}"
                self._teachers[how] = self.create_publisher(TEACHES[how], topic, 5)
            self._lesson += 1
            return PointedOut(self._lesson, None)

    def teach(self, number: int, name: str, shows_it: bool) -> None:
        with self._teaching, self._naming({"teach": name, "teach_not": not shows_it}), self._condition:
            if self._pointed_out is None or number != self._lesson:
                raise UserError(f"Something else was pointed out meanwhile: show {name} again.")
            how, message = self._pointed_out
            before = self.taught().get(name, 0)
            heard = self._until(lambda: self._teachers[how].get_subscription_count() > 0)
            if heard:
                self._teachers[how].publish(message)
            if not heard or not self._until(lambda: self.taught().get(name, 0) > before):
                raise UserError(
                    f"{self.name} has not learnt it within {PATIENCE:.0f} s: its log says why, unless no images come."
                )
            self._pointed_out = None

    def undo(self, name: str) -> None:
        self._change("undo", name)

    def forget(self, name: str) -> None:
        self._change("forget", name)

    def _change(self, service: str, name: str) -> None:
        with self._teaching, self._naming({"teach": name}):
            answer = self._call(self._taking_back[service], Trigger.Request())
            if not answer.success:
                raise UserError(answer.message)

    @contextlib.contextmanager
    def _naming(self, values: dict[str, Any]) -> Iterator[None]:
        """Name an object to the node, and nothing afterwards: a stray click must teach nothing."""
        self._set_on_node(values)
        try:
            yield
        finally:
            self._set_on_node({"teach": "", "teach_not": False})

    def _until(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition comes true in time; it is looked at with each report, and several times a second."""
        self._condition.wait_for(lambda: self._stopped or condition(), PATIENCE)
        return not self._stopped and condition()

    def paused(self) -> bool:
        return False

    def pause(self, paused: bool) -> None:
        """Nothing: a camera goes on."""

    def step(self) -> None:
        """Nothing: a camera goes on."""

    def close(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._executor_of_page.wake()
        self._thread.join()  # before ROS ends, whose entities it may be making
        rclpy.try_shutdown()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not self._stopped:
                self._executor_of_page.spin_once()

    def _ask_for(self, layers: Collection[str]) -> None:
        self._asked.update(dict.fromkeys((CAMERA, *layers), time.monotonic()))

    def _wanted(self) -> set[str]:
        """The camera and the layers that somebody looks at."""
        with self._condition:
            return {name for name, asked in self._asked.items() if time.monotonic() - asked < LOOKED_AT}

    def _newer(self, after: int) -> bool:
        return self._scene is not None and self._scene.number > after

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        """Take the node's status of the camera that is looked at, and that of its learner."""
        for status in array.status:
            values = {pair.key: pair.value for pair in status.values}
            if values.get(NODE) == self.name:
                with self._condition:
                    self._learner = status.message, values, time.monotonic()
        start = f"{self.name}: perception"
        mine = [status for status in array.status if status.name == start or status.name.startswith(f"{start} ")]
        facts = [{pair.key: pair.value for pair in status.values} for status in mine]
        topics = [values.get("image topic", "") for values in facts]
        for status, values, topic in zip(mine, facts, topics, strict=True):
            if self._topic in (None, topic, topic.removesuffix("/compressed")):
                camera = status.name.removeprefix(start).strip()
                namespace = self.name.rpartition("/")[0]
                with self._condition:
                    self._facts = {**values, "message": status.message}
                    self._heard = time.monotonic()
                    self._prefix = f"{namespace}/{camera}/" if camera else f"{namespace}/"
                return
        with self._condition:
            self._others = topics or self._others

    def _ask(self) -> None:
        """Ask for the parameters, which others may set too."""
        if not self._get.service_is_ready():
            with self._condition:
                self._values = {}
        elif self._wanted():
            names = [f"mask_{name}" for name in RULES]
            self._get.call_async(GetParameters.Request(names=names)).add_done_callback(
                lambda future: self._take(names, future.result())
            )

    def _take(self, names: list[str], answer: Any) -> None:
        if answer is not None and len(answer.values) == len(names):
            with self._condition:
                self._values = dict(zip(names, map(parameter_value_to_python, answer.values), strict=True))

    def _follow(self) -> None:
        """Subscribe to what somebody looks at, and to nothing else."""
        self._wake()
        topic = self._facts.get("image topic", "")
        wanted = self._wanted() if topic else set()
        if TAUGHT in wanted:
            wanted = wanted - {TAUGHT} | {f"{name}/mask" for name in self.taught()}
            if vision and self.taught():
                wanted.add(SCORES)
        for name in self._listening.keys() - wanted:
            self.destroy_subscription(self._listening.pop(name))
            del self._messages[name]
        for name in wanted - self._listening.keys():
            # Best effort matches every camera; the node publishes its results as reliable.
            qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
            kind = vision.Detection2DArray if name == SCORES else Image
            if name == CAMERA and topic.endswith("/compressed"):
                kind = CompressedImage
            on_message = lambda message, name=name: self._on_message(name, message)  # noqa: E731
            self._messages[name] = {}
            where = topic if name == CAMERA else self._prefix + TOPICS.get(name, name)
            self._listening[name] = self.create_subscription(kind, where, on_message, qos)

    def _on_message(self, name: str, message: Any) -> None:
        """Keep a message, and show the frame of which all have come."""
        stamp = stamp_ns(message)
        kept = self._messages[name]
        kept[stamp] = message
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
        if not all(stamp in messages for messages in self._messages.values()):
            return
        found = {name: messages.pop(stamp) for name, messages in self._messages.items()}
        try:
            rgb = to_rgb(found.pop(CAMERA))
            scores = taught_scores(found.pop(SCORES)) if SCORES in found else {}
            arrays = {name: to_array(message) for name, message in found.items()}
        except UserError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)
            return
        attention = arrays.get("attention")
        names = sorted(topic.removesuffix("/mask") for topic in arrays if topic.endswith("/mask"))
        with self._condition:
            number = self._scene.number + 1 if self._scene else 1
            self._scene = Scene(
                number,
                stamp,
                rgb,
                arrays.get("mask"),
                arrays.get("objects"),
                None if attention is None else np.moveaxis(np.atleast_3d(attention), 2, 0),
                arrays.get("similarity"),
                arrays.get("features"),
                {name: Found(arrays[f"{name}/mask"], scores.get(name)) for name in names},
            )
            self._condition.notify_all()
