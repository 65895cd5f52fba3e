"""The lifecycle node: masks and registered depth in, objects in meters out."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.depth_topics import DepthTopics, Settings
from dino_ros.nodes.diagnostics import Diagnostics
from dino_ros.nodes.managed_node import ManagedNode, manage
from dino_ros.nodes.parameters import DEPTH_PARAMETERS, why_refused
from dino_ros.nodes.transforms import Transforms


class DepthNode(ManagedNode):
    """Publishes the points and the boxes of objects whose masks and depth it receives, in the namespace /dino.

    Nothing is subscribed to while nobody wants the results. A frame without depth, or one that cannot be used, is
    counted and skipped with a warning. Raises UserError for a parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("depth", DEPTH_PARAMETERS)
        self._topics: DepthTopics | None = None
        self._input_callbacks = CallbackThread(self)
        self._unconfigured = Diagnostics()
        self.add_on_set_parameters_callback(self._check_parameters)

    def _configure(self) -> None:
        target = self._value("target_frame")
        transforms = Transforms(self, target) if target else None
        names = ("names", "slop", "color", "image_transport", "reliability")
        settings = Settings(**{name: self._value(name) for name in names})
        self._topics = DepthTopics(self, settings, transforms, self._input_callbacks)

    def _activate(self) -> None:
        assert self._topics is not None  # configured before
        self._input_callbacks.start()
        self._topics.activate()
        self.get_logger().info(f"Waiting for depth on {self.resolve_topic_name('depth/image')}.")

    def stop(self) -> None:
        """Unsubscribe and end the thread; the results' topics stay."""
        if self._topics is not None:
            self._topics.deactivate()
        self._input_callbacks.stop()

    def _release(self) -> None:
        self.stop()
        if self._topics is not None:
            self._topics.destroy()
            self._topics = None

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        kept = {row.name: self._value(row.name) for row in DEPTH_PARAMETERS}
        reason = why_refused(parameters, kept, self._topics is not None, DEPTH_PARAMETERS)
        return SetParametersResult(successful=not reason, reason=reason)

    def _report(self, seconds: float) -> list[DiagnosticStatus]:
        name, topics = f"{self.get_fully_qualified_name()}: depth", self._topics
        if topics is None:
            return [self._unconfigured.report(name, self._state, seconds, False, {}, self._failure)]
        return [topics.report(name, self._state, seconds, {}, self._failure)]


def main() -> None:
    """Run the node until it is interrupted; a bad parameter is logged as one sentence, with the exit code 2."""
    manage("depth", DepthNode)


if __name__ == "__main__":
    main()
