"""The lifecycle node that learns on the robot: keeps what the camera sees, trains, and swaps the perception node's
student when a better one is found. `dino_ros/learning/` decides what happens when."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.errors import UserError
from dino_ros.files import named_path
from dino_ros.images.encodings import to_rgb
from dino_ros.learning.jobs import Job, end_left_over
from dino_ros.learning.learner import Learner, Report, Settings
from dino_ros.learning.reservoir import Reservoir
from dino_ros.learning.subjects import STUDENT
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import QOS, WARN_EVERY, image_topic
from dino_ros.nodes.learner_report import MEGABYTE, NODE, learner_values
from dino_ros.nodes.managed_node import ManagedNode, manage
from dino_ros.nodes.parameters import LEARNER_PARAMETERS, why_refused
from dino_ros.nodes.throttle import Throttle
from dino_ros.nodes.wire import read_image
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import DEFAULT_STUDENT

EYE = DEFAULT_STUDENT
"""Whose embeddings tell how alike images are: the same for all images, whichever student runs on the robot."""
TICK = 1.0
"""Seconds between two looks at what is due; the perception node reports itself as often."""
SILENT = 5.0
"""Seconds after which what the perception node said last is out of date."""
LATENCY = "latency p90 (ms)"
"""The perception node's value that tells whether training gets in its way."""


class LearnerNode(ManagedNode):
    """Learns from `image`, and sets the parameter `model` of the perception node, on the same machine.

    While active it looks at `rate` images a second. Raises UserError for a parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("learner", LEARNER_PARAMETERS)
        self._reservoir: Reservoir | None = None
        self._learner: Learner | None = None
        self._eye: Perceiver | None = None
        self._robot: PerceptionNode | None = None
        self._camera: Any = None
        self._camera_callbacks = CallbackThread(self)
        self._throttle = Throttle()
        self._problem = ""
        self._working = threading.Lock()
        """Held while the learner works or is stopped."""
        self.add_on_set_parameters_callback(self._check_parameters)
        # Steady time, as that of the diagnostics; in the camera's thread, whose images the learner counts.
        self.create_timer(
            TICK, self._tick, callback_group=self._camera_callbacks.group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _configure(self) -> None:
        if importlib.util.find_spec("sklearn") is None:
            raise UserError("Learning needs dino-train, which is not installed whole: pip install 'dino_ros[train]'.")
        if self._value("learn") == STUDENT and not self._value("teacher"):
            raise UserError("learn is student, which needs a teacher: set the parameter teacher.")
        folder = learner_folder(self._value("folder"))
        self._reservoir = Reservoir(folder, self._value("budget") * MEGABYTE)
        for round_folder in folder.glob("round_*"):
            end_left_over(round_folder)
        self._eye = Perceiver.load(EYE, "onnxruntime")  # on the CPU: no engine needs to be built
        self._robot = PerceptionNode(self, self._value("node"))
        names = ("learn", "teacher", "fewest", "trial", "slowdown")
        settings = Settings(**{name: self._value(name) for name in names})
        self._learner = Learner(folder, self._reservoir, self._robot, settings, Job)

    def _activate(self) -> None:
        assert self._reservoir is not None  # configured before
        self._throttle.max_rate = self._value("rate")
        compressed = self._value("image_transport") == "compressed"
        topic = image_topic(self, "image", compressed)
        self._camera = self.create_subscription(
            CompressedImage if compressed else Image,
            topic,
            self._see,
            QoSProfile(**QOS, reliability=ReliabilityPolicy[self._value("reliability").upper()]),
            callback_group=self._camera_callbacks.group,
            raw=True,
        )
        self._camera_callbacks.start()
        self.get_logger().info(
            f"Keeping up to {self._value('budget')} MB of what is seen on {topic} in {self._reservoir.folder}, and "
            "learning from it. Nothing leaves this machine."
        )

    def stop(self) -> None:
        """Unsubscribe and end the training; what was seen stays, and the training begins again where it can."""
        self._camera_callbacks.stop()
        if self._camera is not None:
            self.destroy_subscription(self._camera)
            self._camera = None
        with self._working:
            if self._learner is not None:
                self._learner.stop()

    def _release(self) -> None:
        self.stop()
        robot, reservoir = self._robot, self._reservoir
        self._reservoir = self._learner = self._robot = self._eye = None  # the diagnostics no longer look at them
        if robot is not None:
            robot.destroy()
        if reservoir is not None:
            reservoir.close()

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        kept = {row.name: self._value(row.name) for row in LEARNER_PARAMETERS}
        reason = why_refused(parameters, kept, self._learner is not None, LEARNER_PARAMETERS)
        return SetParametersResult(successful=not reason, reason=reason)

    # What follows, until `_report`, runs in the camera's thread.

    def _see(self, data: bytes) -> None:
        if not self._throttle.lets_pass(time.monotonic()):
            return
        assert self._reservoir is not None
        try:
            self._reservoir.offer(to_rgb(read_image(data, self._value("image_transport") == "compressed")), self._embed)
        except Exception as error:  # of an image nobody foresaw
            self._failed("Keeping an image", error)

    def _embed(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self._eye is not None
        embedding = self._eye(rgb, ("embedding",)).embedding
        assert embedding is not None  # it was asked for
        return embedding

    def _tick(self) -> None:
        assert self._learner is not None
        assert self._robot is not None
        before = self._learner.state
        try:
            with self._working:
                self._learner.tick(self._robot.report(), self._value("pause"))
            self._problem = ""
        except Exception as error:  # such as a full disk: it is tried again
            self._failed("Learning", error)
        after = self._learner.state
        if after.step != before.step:
            said = f": {after.outcome}" if after.outcome != before.outcome else ""
            self.get_logger().info(f"Round {after.round}, {after.step}{said}.")

    def _failed(self, work: str, error: Exception) -> None:
        self._problem = self._sentence(work, error)
        self.get_logger().warning(self._problem, throttle_duration_sec=WARN_EVERY)

    def _report(self, seconds: float) -> list[DiagnosticStatus]:
        status = DiagnosticStatus(
            name=f"{self.get_fully_qualified_name()}: learner", hardware_id="none", message=self._state
        )
        values = {"state": self._state, NODE: self.resolve_service_name(self._value("node"))}
        learner = self._learner
        if learner is not None:
            status.message = f"{self._state}, {learner.doing}"
            values |= learner_values(learner)
        if self._failure or self._problem:
            status.level = DiagnosticStatus.ERROR if self._failure else DiagnosticStatus.WARN
            status.message = self._failure or self._problem
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        return [status]


class PerceptionNode:
    """The perception node as a Robot: what it says on /diagnostics, and its parameter `model`."""

    def __init__(self, node: LearnerNode, name: str) -> None:
        self._node = node
        full_name = node.resolve_service_name(name)
        self._prefix = f"{full_name}: perception"
        self._report = Report()
        self._heard = float("-inf")
        self._future: Any = None
        self._diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        self._client = node.create_client(SetParameters, f"{full_name}/set_parameters")

    def report(self) -> Report:
        """What it said last, each report once; nothing if it is silent."""
        if time.monotonic() - self._heard > SILENT:
            return Report()
        report = self._report
        self._report = Report(report.model)
        return report

    def ask(self, model: str) -> bool:
        """Set its parameter `model`, if its service is there."""
        if not self._client.service_is_ready():
            return False
        parameter = Parameter("model", value=model).to_parameter_msg()
        self._future = self._client.call_async(SetParameters.Request(parameters=[parameter]))
        return True

    def answer(self) -> str | None:
        """Why it refused, empty if it did not; None while it has not answered."""
        if self._future is None or not self._future.done():
            return None
        (result,) = self._future.result().results
        return "" if result.successful else str(result.reason or "it gave no reason")

    def destroy(self) -> None:
        """Hear no more of it."""
        self._node.destroy_subscription(self._diagnostics)
        self._node.destroy_client(self._client)

    def _hear(self, array: DiagnosticArray) -> None:
        statuses = [status for status in array.status if status.name.startswith(self._prefix)]
        reports = [read_report(status) for status in statuses]
        if reports and reports[0].model:
            latencies = [report.latency for report in reports if report.latency is not None]
            ill = next((report.ill for report in reports if report.ill), "")
            self._report = Report(reports[0].model, max(latencies, default=None), ill)
            self._heard = time.monotonic()


def read_report(status: DiagnosticStatus) -> Report:
    """What the perception node's status of one camera says of its student.

    It is ill while frames come in and none goes out, or while the node cannot use any.
    """
    values = {pair.key: pair.value for pair in status.values}
    latency = values.get(LATENCY)
    comes, goes = (float(values.get(f"{side} rate (Hz)", 0)) for side in ("input", "output"))
    ill = comes > 0 and goes == 0 and status.level != DiagnosticStatus.OK
    return Report(values.get("model", ""), None if latency is None else float(latency), status.message if ill else "")


def learner_folder(name: str) -> Path:
    """The folder that a user names; empty for `dino_learner` in ROS_HOME, which is ~/.ros unless set.

    Raises UserError if it cannot be looked for.
    """
    return named_path(name or Path(os.environ.get("ROS_HOME") or "~/.ros") / "dino_learner").absolute()


def main() -> None:
    """Run the node until it is interrupted; a bad parameter is logged as one sentence, with the exit code 2."""
    manage("learner", LearnerNode)


if __name__ == "__main__":
    main()
