"""The lifecycle node: subscribes to a camera, perceives, publishes. Thin: the work is done by the Perceiver."""

from __future__ import annotations

import sys
import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.diagnostics import Diagnostics
from dino_ros.encodings import to_rgb
from dino_ros.errors import UserError
from dino_ros.masks import MaskParameters
from dino_ros.messages import mask_message, rgb_message, tensor_message
from dino_ros.newest import NewestItemWorker
from dino_ros.overlay import overlay
from dino_ros.parameters import declare_parameters, why_refused
from dino_ros.perceiver import Perceiver
from dino_ros.student import find_student

OUTPUT_TOPICS = ("attention_mask", "attention", "features", "embedding", "overlay")
NEEDS = {
    "attention_mask": {"mask"},
    "attention": {"attention"},
    "features": {"features"},
    "embedding": {"embedding"},
    "overlay": {"mask", "attention"},
}
"""What the Perceiver must compute for each topic."""
WARN_EVERY = 5.0
"""Seconds between two warnings about frames that cannot be used."""


class PerceptionNode(LifecycleNode):
    """Publishes what a student sees in a camera's pictures, in the namespace /dino unless remapped.

    Configuring loads the student, activating subscribes to the camera. Only the newest frame is processed, in a worker
    thread, and only what somebody subscribes to is computed. A frame that cannot be used is warned of and passed over.
    """

    def __init__(self) -> None:
        super().__init__("perception", namespace="dino")
        declare_parameters(self)
        self._perceiver: Perceiver | None = None
        self._mask = MaskParameters()
        self._outputs: dict[str, Publisher] = {}
        self._camera: Subscription | None = None
        self._worker: NewestItemWorker[tuple[Image | CompressedImage, float]] | None = None
        self._facts: dict[str, str] = {}
        self._state = "unconfigured"
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_mask_parameters)
        self._diagnostics = Diagnostics()
        self._reported_at = time.monotonic()
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: diagnostics go on when simulated time stands still.
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the student and advertise the topics; a student that cannot be used leaves the node unconfigured."""
        try:
            path = find_student(self.get_parameter("model").value)
            self._perceiver = Perceiver.load(path, self.get_parameter("backend").value)
            self._mask = self._mask_parameters([])
        except UserError as error:
            self._perceiver = None
            self.get_logger().error(str(error))
            self._diagnostics.problem(str(error))
            return TransitionCallbackReturn.FAILURE
        info = self._perceiver.info
        self._facts = {
            "model": str(path),
            "architecture": info.architecture,
            "input size": f"{info.height}x{info.width}",
            "backend": self._perceiver.backend.description,
            "image topic": self.resolve_topic_name(self._image_topic()),
        }
        self._outputs = {topic: self.create_lifecycle_publisher(Image, topic, 5) for topic in OUTPUT_TOPICS}
        self._state = "inactive"
        self.get_logger().info(f"Loaded {path.name} ({info.architecture}) on {self._perceiver.backend.description}.")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        super().on_activate(state)
        self._worker = NewestItemWorker(self._process, "perceive")
        reliability = ReliabilityPolicy[self.get_parameter("reliability").value.upper()]
        self._camera = self.create_subscription(
            CompressedImage if self._compressed() else Image,
            self._image_topic(),
            self._receive,
            QoSProfile(depth=5, reliability=reliability),
        )
        self._state = "active"
        self.get_logger().info(f"Waiting for images on {self._camera.topic_name}.")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave the camera and stop the worker."""
        self._leave_camera()
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the student and the topics go."""
        self._release()
        self._state = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        self._release()
        self._state = "finalized"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that raised."""
        self._release()
        self._state = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def _release(self) -> None:
        self._leave_camera()
        for publisher in self._outputs.values():
            self.destroy_publisher(publisher)
        self._outputs = {}
        self._perceiver = None
        self._facts = {}

    def _leave_camera(self) -> None:
        if self._camera is not None:
            self.destroy_subscription(self._camera)
            self._camera = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _compressed(self) -> bool:
        return bool(self.get_parameter("image_transport").value == "compressed")

    def _image_topic(self) -> str:
        return "image/compressed" if self._compressed() else "image"

    def _receive(self, message: Image | CompressedImage) -> None:
        stamp = message.header.stamp
        self._diagnostics.received(stamp.sec * 1_000_000_000 + stamp.nanosec, len(message.data))
        if self._worker is not None:
            self._worker.offer((message, time.monotonic()))

    def _process(self, arrived: tuple[Image | CompressedImage, float]) -> None:
        """Perceive one frame and publish what is wanted; runs in the worker thread and never raises."""
        message, arrived_at = arrived
        wanted = self._wanted()
        if not wanted:
            return
        try:
            self._publish(message, wanted)
            self._diagnostics.published(time.monotonic() - arrived_at)
        except UserError as error:
            self._warn(str(error))
        except Exception as error:  # a message must never end the node
            self._warn(f"A frame could not be processed: {type(error).__name__}: {error}")

    def _publish(self, message: Image | CompressedImage, wanted: list[str]) -> None:
        assert self._perceiver is not None  # the worker only runs while active
        rgb = to_rgb(message)
        outputs = set().union(*(NEEDS[topic] for topic in wanted))
        seen: Any = self._perceiver(rgb, outputs=outputs, mask=self._mask)  # NEEDS asked for all that is read below
        header = message.header
        for topic in wanted:
            if topic == "attention_mask":
                result = mask_message(seen.mask, header)
            elif topic == "attention":
                result = tensor_message(seen.attention.transpose(1, 2, 0), header)
            elif topic == "features":
                result = tensor_message(seen.features, header)
            elif topic == "embedding":
                result = tensor_message(seen.embedding[None, None], header)
            else:
                result = rgb_message(overlay(rgb, seen.mask, seen.attention), header)
            self._outputs[topic].publish(result)

    def _wanted(self) -> list[str]:
        return [topic for topic, publisher in self._outputs.items() if publisher.get_subscription_count()]

    def _warn(self, sentence: str) -> None:
        self._diagnostics.problem(sentence)
        self.get_logger().warning(sentence, throttle_duration_sec=WARN_EVERY)

    def _check_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = why_refused(parameters, configured=self._perceiver is not None)
        if not reason:
            try:
                self._mask_parameters(parameters)
            except UserError as error:
                reason = str(error)
        return SetParametersResult(successful=not reason, reason=reason)

    def _take_mask_parameters(self, parameters: list[Parameter]) -> None:
        self._mask = self._mask_parameters(parameters)

    def _mask_parameters(self, changes: list[Parameter]) -> MaskParameters:
        """Mask parameters with these changes; raises UserError if they do not suit the student."""
        values = {name: self.get_parameter(f"mask_{name}").value for name in ("keep", "head", "components")}
        values |= {p.name.removeprefix("mask_"): p.value for p in changes if p.name.startswith("mask_")}
        heads = self._perceiver.info.heads if self._perceiver else None
        if heads is not None and values["head"] >= heads:
            raise UserError(f"mask_head is {values['head']}, but the student has the heads 0 to {heads - 1}.")
        return MaskParameters(**values)

    def _report(self) -> None:
        now = time.monotonic()
        status = self._diagnostics.report(
            self.get_fully_qualified_name(),
            self._state,
            now - self._reported_at,
            self._worker.dropped if self._worker else 0,
            bool(self._wanted()),
            self._facts,
        )
        self._reported_at = now
        if warning := self._diagnostics.transport_warning():
            self.get_logger().warning(warning, throttle_duration_sec=30.0)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(array)


def main() -> None:
    """Run the node until it is interrupted; a bad parameter prints one sentence and exits with code 2."""
    rclpy.init(args=sys.argv)
    try:
        rclpy.spin(PerceptionNode())
    except UserError as error:
        rclpy.logging.get_logger("perception").error(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
