"""What the nodes under test talk to: a ROS node in the test's own process."""

import math
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.images.stamps import stamp_fields
from dino_ros.nodes.messages import rgb_message

PERCEPTION = "/dino/perception"


class Client(Node):
    """A camera and a subscriber; keeps everything it receives, by topic and in order."""

    def __init__(self, camera_type: type[Image] | type[CompressedImage] = Image, topic: str = "/dino/image") -> None:
        super().__init__("client")
        self.camera = self.create_publisher(camera_type, topic, QoSProfile(depth=50))
        self.received: dict[str, list[Any]] = {"/diagnostics": []}
        self.subscriptions_by_topic = {
            "/diagnostics": self.create_subscription(
                DiagnosticArray, "/diagnostics", self.received["/diagnostics"].append, 50
            )
        }

    def listen(self, topic: str, kind: type[Any] = Image) -> list[Any]:
        """Subscribe; returns the list that fills with messages."""
        messages = self.received[topic] = []
        self.subscriptions_by_topic[topic] = self.create_subscription(kind, topic, messages.append, 50)
        self.wait(lambda: self.count_publishers(topic) > 0, f"a publisher on {topic}")
        return messages

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        """Receive until the condition holds; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def pause(self, seconds: float) -> None:
        """Receive for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rclpy.spin_once(self, timeout_sec=0.05)

    def send(self, number: int, rgb: NDArray[np.uint8], **fields: Any) -> Image:
        """Publish an image with the stamp `number` milliseconds; `fields` replace those of the message."""
        message = rgb_message(rgb, header(number, f"camera {number}"))
        for name, value in fields.items():
            setattr(message, name, value)
        self.camera.publish(message)
        return message

    def camera_heard(self) -> None:
        """Wait until the node subscribes to the camera."""
        self.wait(lambda: self.camera.get_subscription_count() == 1, "the node's subscription")

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Set a parameter of the perception node; returns success and reason."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, f"{PERCEPTION}/set_parameters", request).results[0]
        return result.successful, result.reason

    def describe(self, names: list[str]) -> list[ParameterDescriptor]:
        """Descriptors of the perception node's parameters."""
        request = DescribeParameters.Request(names=names)
        return self.call(DescribeParameters, f"{PERCEPTION}/describe_parameters", request).descriptors

    def diagnosis(
        self, condition: Callable[[DiagnosticStatus], bool], name: str = f"{PERCEPTION}: perception"
    ) -> DiagnosticStatus:
        """Wait for a diagnostic of that name that meets the condition, and return it."""
        self.received["/diagnostics"].clear()

        def found() -> list[DiagnosticStatus]:
            statuses = [s for array in self.received["/diagnostics"] for s in array.status]
            return [s for s in statuses if s.name == name and condition(s)]

        self.wait(found, "a diagnostic")
        return found()[0]

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return its response; asks again, as rclpy may lose an answer on a busy machine."""
        client = self.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=20.0), name
        futures: list[Any] = []
        asked = -math.inf

        def answered() -> list[Any]:
            nonlocal asked
            if time.monotonic() - asked > 10.0:
                futures.append(client.call_async(request))
                asked = time.monotonic()
            return [future for future in futures if future.done()]

        self.wait(answered, name)
        return answered()[0].result()


def header(milliseconds: int, frame_id: str) -> Header:
    """A header with that stamp."""
    return Header(stamp=Time(**stamp_fields(milliseconds * 1_000_000)), frame_id=frame_id)


def values(status: DiagnosticStatus) -> dict[str, str]:
    """The key-value pairs of a diagnostic."""
    return {pair.key: pair.value for pair in status.values}


def image(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 5)
