"""What the lifecycle nodes have in common: transitions that say why they fail, and diagnostics once a second."""

from __future__ import annotations

import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from dino_ros.errors import UserError
from dino_ros.nodes.parameters import Parameter, declare_parameters
from dino_ros.nodes.process import run, serve
from dino_ros.nodes.rclpy_internals import answer_impossible_transitions


class ManagedNode(LifecycleNodeMixin, Node):
    """A lifecycle node, in the namespace /dino unless remapped; a node fills in the abstract methods.

    Raises UserError for a parameter that cannot be used.
    """

    def __init__(self, name: str, parameters: Sequence[Parameter]) -> None:
        Node.__init__(self, name, namespace="dino")
        # A transition may take minutes (building an engine): parameters and diagnostics must not wait for it.
        # LifecycleNode has no way to pass a callback group, the mixin has.
        LifecycleNodeMixin.__init__(self, callback_group=MutuallyExclusiveCallbackGroup())
        declare_parameters(self, parameters)
        self._state = "unconfigured"
        self._failure = ""
        """Why the last transition failed; empty if it did not."""
        self._reported_at = time.monotonic()
        answer_impossible_transitions(self)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: diagnostics continue when simulated time stands still.
        self.create_timer(
            1.0,
            self._publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    @abstractmethod
    def _configure(self) -> None:
        """Make what the node needs; what it raises leaves the node unconfigured, and released."""

    @abstractmethod
    def _activate(self) -> None:
        """Start the work."""

    @abstractmethod
    def stop(self) -> None:
        """End the work and its threads; what was configured stays."""

    @abstractmethod
    def _release(self) -> None:
        """End the work and undo what was configured."""

    @abstractmethod
    def _report(self, seconds: float) -> list[DiagnosticStatus]:
        """The node's diagnostics; the last ones were so many seconds ago."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure; if that fails the node stays unconfigured."""
        outcome = self._attempt("configure", self._to_inactive, TransitionCallbackReturn.FAILURE)
        if outcome != TransitionCallbackReturn.SUCCESS:
            self._release()
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the work."""
        return self._attempt("activate", lambda: self._to_active(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the work."""
        return self._attempt("deactivate", lambda: self._back_to_inactive(state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release what was configured."""
        return self._attempt("cleanup", lambda: self._leave("unconfigured"))

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        return self._attempt("shutdown", lambda: self._leave("finalized"))

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after a transition that raised."""
        failure = self._failure
        outcome = self._attempt("recover", lambda: self._leave("unconfigured"))
        self._failure = self._failure or failure
        return outcome

    def _attempt(
        self,
        transition: str,
        make: Callable[[], None],
        otherwise: TransitionCallbackReturn = TransitionCallbackReturn.ERROR,
    ) -> TransitionCallbackReturn:
        """Make a transition; what it raises is logged, and shown in the diagnostics until the next attempt.

        rclpy drops what a transition raises.
        """
        self._failure = ""
        try:
            make()
        except Exception as error:
            self._failure = self._sentence(f"The transition {transition}", error)
            self.get_logger().error(self._failure)
            return otherwise
        return TransitionCallbackReturn.SUCCESS

    def _to_inactive(self) -> None:
        self._configure()
        self._state = "inactive"

    def _to_active(self, state: LifecycleState) -> None:
        super().on_activate(state)
        self._activate()
        self._state = "active"

    def _back_to_inactive(self, state: LifecycleState) -> None:
        self.stop()
        super().on_deactivate(state)
        self._state = "inactive"

    def _leave(self, state: str) -> None:
        self._release()
        self._state = state

    def _sentence(self, work: str, error: Exception) -> str:
        """What an error says; of one that nobody foresaw, which `work` failed, and where at the level debug."""
        if isinstance(error, UserError):
            return str(error)
        self.get_logger().debug("".join(traceback.format_exception(error)))
        return f"{work} failed: {type(error).__name__}: {error}"

    def _value(self, name: str) -> Any:
        """The value of a parameter."""
        return self.get_parameter(name).value

    def _publish_diagnostics(self) -> None:
        now = time.monotonic()
        seconds, self._reported_at = now - self._reported_at, now
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = self._report(seconds)
        self._diagnostics_publisher.publish(array)


def manage(name: str, make: Callable[[], ManagedNode]) -> None:
    """Run a lifecycle node in this process until it is interrupted; see `process.run`."""

    def work() -> None:
        cv2.setNumThreads(1)  # images are small: waking its threads takes longer, and they get in an engine's way
        node = make()
        executor = MultiThreadedExecutor(num_threads=3)  # transitions, parameters and services, diagnostics
        executor.add_node(node)
        try:
            while rclpy.ok():
                serve(node, executor.spin)
        finally:
            executor.shutdown()
            node.stop()

    run(name, work)
