"""QoS overrides from a parameter file, over real DDS."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from dino_ros.errors import UserError
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import CameraTopics
from dino_ros.nodes.qos import overridable

TRANSPORT = Path(__file__).resolve().parents[1] / "docs" / "transport.md"


@pytest.fixture
def perception(ros: None, tmp_path: Path) -> Callable[[str], LifecycleNode]:
    """Makes a node of the perception node's name from the text of a parameter file."""

    def make(parameters: str) -> LifecycleNode:
        file = tmp_path / "parameters.yaml"
        file.write_text(parameters)
        arguments = ["--ros-args", "--params-file", str(file), "-r", "image:=/camera/image_raw"]
        return LifecycleNode("perception", namespace="dino", cli_args=arguments)

    return make


def test_the_example_of_the_docs_overrides_what_it_names_and_nothing_else(
    perception: Callable[[str], LifecycleNode],
) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TRANSPORT.read_text(), re.DOTALL)
    node, viewer = perception(example), Node("viewer")
    viewer.create_subscription(
        Image, "/dino/overlay", lambda message: None, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    callbacks = CallbackThread(node)
    executor = SingleThreadedExecutor()
    executor.add_node(viewer)

    def asked() -> list[ReliabilityPolicy]:
        subscriptions = viewer.get_subscriptions_info_by_topic("/camera/image_raw")
        return [subscription.qos_profile.reliability for subscription in subscriptions]

    for _ in range(2):  # also after cleanup and another configure, when the parameters are declared already
        camera = CameraTopics(node, "", False, "best_effort", callbacks, str)
        camera.activate(Pipeline())
        wait(executor, lambda c=camera: c.look_for_listeners() or asked(), "the camera's subscription")
        assert asked() == [ReliabilityPolicy.RELIABLE]
        for topic, reliability, depth in (
            ("overlay", ReliabilityPolicy.BEST_EFFORT, 1),
            ("attention_mask", ReliabilityPolicy.RELIABLE, 5),
        ):
            (publisher,) = node.get_publishers_info_by_topic(f"/dino/{topic}")
            assert publisher.qos_profile.reliability == reliability
            made = next(made for made in node.publishers if made.topic_name == f"/dino/{topic}")
            assert made.qos_profile.depth == depth  # which DDS tells nobody
        camera.destroy()
        wait(executor, lambda: not asked(), "the end of the camera's subscription")
    node.destroy_node()
    viewer.destroy_node()


def wait(executor: SingleThreadedExecutor, condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        executor.spin_once(timeout_sec=0.05)


class Pipeline:
    """Takes the place of the pipeline."""

    def offer(self, camera: object, message: object, stamp: int) -> None:
        pass


@pytest.mark.parametrize(
    ("policy", "value", "sentence"),
    [
        ("reliability", "best", "is 'best': choose one of best_effort, reliable."),
        ("history", "unknown", "is 'unknown': choose one of keep_last, keep_all."),
        ("depth", 0, "is out of its range"),
        ("depth", "many", "must have the type of 5"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_before_there_is_a_topic(
    perception: Callable[[str], LifecycleNode], policy: str, value: Any, sentence: str
) -> None:
    overrides = f"{{/camera/image_raw: {{subscription: {{{policy}: {value}}}}}}}"
    node = perception(f"/**/perception:\n  ros__parameters:\n    qos_overrides: {overrides}\n")
    with pytest.raises(UserError) as caught:
        CameraTopics(node, "", False, "best_effort", CallbackThread(node), str)
    assert f"qos_overrides./camera/image_raw.subscription.{policy}" in str(caught.value)
    assert sentence in str(caught.value)
    node.destroy_node()


def test_without_overrides_the_parameters_show_the_profile(perception: Callable[[str], LifecycleNode]) -> None:
    node = perception("/**/perception:\n  ros__parameters: {max_rate: 1.0}\n")
    profile = QoSProfile(depth=7, history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.BEST_EFFORT)
    overridable(node, "publisher", "mask", profile)
    shown = {name: node.get_parameter(name).value for name in node.get_parameters_by_prefix("")}
    mine = {name.rpartition(".")[2]: value for name, value in shown.items() if "/dino/mask.publisher." in name}
    assert mine == {"history": "keep_all", "depth": 7, "reliability": "best_effort"}
    node.destroy_node()
