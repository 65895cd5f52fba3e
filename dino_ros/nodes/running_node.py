"""What a running perception node publishes, for the page of `dino-ros view`; no second student is run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.images.stamps import stamp_ns
from dino_ros.masks.parameters import RULES
from dino_ros.messages import to_array
from dino_ros.nodes.diagnostics import SUPERSEDED, UNUSABLE
from dino_ros.view.scene import LOOKED_AT, Scene

TOPICS = {
    "mask": "attention_mask",
    "objects": "objects",
    "attention": "attention",
    "features": "features_rgb",
    "similarity": "features",
}
"""The node's topic of each of LAYERS."""
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
"""Seconds that the node may take to answer, and to report itself again."""


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
        self._prefix = ""
        self._listening: dict[str, Any] = {}
        """Subscriptions to the camera and to layers."""
        self._messages: dict[str, dict[int, Any]] = {}
        """Of each subscription, by stamp."""
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
            "rate": f"{facts.get('output rate (Hz)', '?')} Hz",
            "latency": f"{latency} ms" if latency else "",
            "dropped": ", ".join(f"{facts.get(key, '?')} {word}" for key, word in DROPPED.items()),
            **facts,
        }

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
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        with self._condition:
            future = (
                None if self._stopped else self._set.call_async(SetParametersAtomically.Request(parameters=parameters))
            )
            if future:
                future.add_done_callback(lambda _: self._wake())
                self._condition.wait_for(lambda: self._stopped or future.done(), PATIENCE)
        if not future or not future.done():
            raise UserError(f"{self.name} does not answer: see whether it runs, then set the parameter again.")
        result = future.result().result
        if not result.successful:
            raise UserError(result.reason)
        with self._condition:
            self._values.update(values)

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
        rclpy.try_shutdown()
        self._thread.join()  # Python would end it amid rclpy, which aborts the process

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor_of_page.spin()

    def _ask_for(self, layers: Collection[str]) -> None:
        self._asked.update(dict.fromkeys((CAMERA, *layers), time.monotonic()))

    def _wanted(self) -> set[str]:
        """The camera and the layers that somebody looks at."""
        with self._condition:
            return {name for name, asked in self._asked.items() if time.monotonic() - asked < LOOKED_AT}

    def _newer(self, after: int) -> bool:
        return self._scene is not None and self._scene.number > after

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        """Take the node's status of the camera that is looked at."""
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
        topic = self._facts.get("image topic", "")
        wanted = self._wanted() if topic else set()
        for name in self._listening.keys() - wanted:
            self.destroy_subscription(self._listening.pop(name))
            del self._messages[name]
        for name in wanted - self._listening.keys():
            # Best effort matches every camera; the node publishes its results as reliable.
            qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
            kind = CompressedImage if name == CAMERA and topic.endswith("/compressed") else Image
            on_message = lambda message, name=name: self._on_message(name, message)  # noqa: E731
            self._messages[name] = {}
            where = topic if name == CAMERA else self._prefix + TOPICS[name]
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
            arrays = {name: to_array(message) for name, message in found.items()}
        except UserError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)
            return
        attention = arrays.get("attention")
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
            )
            self._condition.notify_all()
