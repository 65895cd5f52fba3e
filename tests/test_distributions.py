"""The node where rclpy lacks what Humble lacks: taken out of the real rclpy."""

import importlib
import inspect
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from clients import header
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from dino_ros.demo.recorder import Recorder
from dino_ros.nodes import distributions
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import QOS, CameraTopics
from dino_ros.nodes.diagnostics import RECEIVED, SUPERSEDED
from dino_ros.nodes.distributions import after_parameters_are_set
from dino_ros.nodes.messages import mask_message
from dino_ros.nodes.transport import variables_to_set


@pytest.fixture
def without_matched_events(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = distributions.PublisherEventCallbacks

    class OlderCallbacks(callbacks):  # type: ignore[misc, valid-type]
        def __init__(self, *, incompatible_qos: Any = None, use_default_callbacks: bool = True) -> None:
            super().__init__(incompatible_qos=incompatible_qos, use_default_callbacks=use_default_callbacks)

    monkeypatch.setattr(distributions, "PublisherEventCallbacks", OlderCallbacks)


def test_subscribers_are_found_without_matched_events(ros: None, without_matched_events: None) -> None:
    node, user = LifecycleNode("perception"), Node("user")
    camera = CameraTopics(node, "", False, "best_effort", CallbackThread(node), str)
    user.create_subscription(Image, "/attention_mask", lambda message: None, QoSProfile(**QOS))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + 20
    while not node.count_subscribers("/attention_mask"):
        assert time.monotonic() < deadline
        executor.spin_once(timeout_sec=0.05)
    assert not camera.listened()  # no event told it
    while not camera.listened():
        assert time.monotonic() < deadline
        camera.report("perception", "active", 1.0, {}, "")
    camera.destroy()
    executor.shutdown()
    user.destroy_node()
    node.destroy_node()


@pytest.mark.parametrize("post_set_callbacks", [True, False])
def test_new_values_are_taken_after_they_are_set(
    ros: None, post_set_callbacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not post_set_callbacks:
        monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    node = Node("perception")
    node.declare_parameter("rate", 1.0)
    taken: list[float] = []
    after_parameters_are_set(node, lambda parameters: taken.append(node.get_parameter("rate").value))
    node.set_parameters([Parameter("rate", value=2.0)])
    assert taken == [2.0]
    assert not node.set_parameters([Parameter("rate", value="fast")])[0].successful
    assert taken == [2.0]
    node.destroy_node()


@pytest.fixture
def imported_without_event_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("rclpy.qos_event")  # its older name, which Jazzy keeps
    monkeypatch.setitem(sys.modules, "rclpy.event_handler", None)
    yield importlib.reload(distributions)
    monkeypatch.undo()
    importlib.reload(distributions)


def test_the_events_are_found_under_their_older_name(imported_without_event_handler: Any) -> None:
    assert "message_lost" in inspect.signature(imported_without_event_handler.SubscriptionEventCallbacks).parameters


@pytest.mark.parametrize("tells_message_info", [True, False])
def test_the_demo_counts_frames_without_what_callbacks_are_told(
    ros: None, tells_message_info: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(distributions, "TELLS_MESSAGE_INFO", tells_message_info)
    recorder, camera, perception = Recorder("/camera", False, tmp_path / "overlay.mp4", {}), Node("a"), Node("b")
    frames = camera.create_publisher(Image, "/camera", QoSProfile(**QOS))
    masks = perception.create_publisher(Image, "/dino/attention_mask", QoSProfile(**QOS))
    diagnostics = perception.create_publisher(DiagnosticArray, "/diagnostics", 10)
    deadline = time.monotonic() + 20

    def spin_until(done: Any) -> None:
        while not done():
            assert time.monotonic() < deadline
            rclpy.spin_once(recorder, timeout_sec=0.05)

    spin_until(lambda: all(one.get_subscription_count() for one in (frames, masks, diagnostics)))
    before = time.time_ns()
    for stamp in (1, 2, 3):
        frames.publish(mask_message(np.zeros((2, 2), np.uint8), header(stamp, "")))
    spin_until(lambda: recorder.frames.received == 3)
    for stamp in (1, 3):
        masks.publish(mask_message(np.zeros((2, 2), np.uint8), header(stamp, "")))
    spin_until(lambda: recorder.masks.received == 2)
    after = time.time_ns()
    assert not recorder.settled(after)
    array = DiagnosticArray(status=[DiagnosticStatus(values=[KeyValue(key=RECEIVED, value="3")])])
    array.status[0].values.append(KeyValue(key=SUPERSEDED, value="1"))
    array.header.stamp = perception.get_clock().now().to_msg()
    diagnostics.publish(array)
    spin_until(lambda: recorder.settled(after))
    assert recorder.frames.published == 3
    assert recorder.lost == 0
    assert len(recorder.sent) == 3
    for stamp, received in recorder.received.items():
        assert before <= recorder.sent[stamp] <= received <= after
    for node in (recorder, camera, perception):
        node.destroy_node()


@pytest.mark.parametrize(
    ("rclpy_version", "variables"),
    [
        ("7.1.6", ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")),
        ("9.1.2", ("FASTDDS_DEFAULT_PROFILES_FILE",)),
    ],
)
def test_kilted_is_not_given_the_variable_that_it_warns_of(
    rclpy_version: str, variables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_ros.nodes.transport.version", lambda name: rclpy_version)
    assert variables_to_set() == variables
