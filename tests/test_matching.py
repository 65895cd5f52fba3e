"""Topics at whose other end nobody is, or somebody who does not fit: what the node says, over real DDS."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from clients import header, image, values
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import QOS, CameraTopics
from dino_ros.nodes.matching import NAMELESS, can_match, words
from dino_ros.nodes.messages import rgb_message

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(**QOS)
LATCHED = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Frames:
    """Takes the place of the pipeline."""

    def offer(self, camera: object, message: object, stamp: int) -> None:
        pass


@dataclasses.dataclass
class Bench:
    """A camera's topics of a node that asks for reliable images, a driver, and what the node logs."""

    node: LifecycleNode
    driver: Node
    camera: CameraTopics
    log: pytest.CaptureFixture[str]
    said: str = ""

    def status(self) -> DiagnosticStatus:
        return self.camera.report("perception", "active", 1.0, {}, "")

    def until(self, condition: Callable[[DiagnosticStatus], Any]) -> DiagnosticStatus:
        deadline = time.monotonic() + 20
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        self.status()  # what stands for two reports is logged
        return status

    def warnings(self) -> list[str]:
        """What was logged so far; names that came late, on a busy machine, aside."""
        self.said += self.log.readouterr().err
        lines = [line.partition("]: ")[2] for line in self.said.splitlines() if line.startswith("[WARN]")]
        return [line for line in lines if NAMELESS not in line]


@pytest.fixture
def bench(ros: None, capfd: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    elsewhere = rclpy.Context()  # one participant cannot have two types on a topic
    rclpy.init(context=elsewhere)
    node, driver = LifecycleNode("perception", namespace="dino"), Node("driver", namespace="front", context=elsewhere)
    callbacks = CallbackThread(node)
    camera = CameraTopics(node, "front", False, "reliable", callbacks, str)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    callbacks.start()
    camera.activate(Frames())
    yield Bench(node, driver, camera, capfd)
    camera.deactivate()
    callbacks.stop()
    executor.shutdown()
    thread.join()
    camera.destroy()
    driver.destroy_node()
    rclpy.shutdown(context=elsewhere)
    node.destroy_node()


TOPIC = "/dino/front/image"
NOBODY = f"Nobody publishes on {TOPIC}: start the camera, or remap it: -r front/image:=TOPIC."
OTHER_TYPE = (
    f"{TOPIC} has the type sensor_msgs/msg/CompressedImage (/front/driver), not sensor_msgs/msg/Image: set "
    "image_transport to compressed and remap front/image/compressed to it."
)
PAUSED = (
    f"/front/driver publishes on {TOPIC}, but no image comes: it may be paused, or its images too large for the "
    "transport: run `dino-ros doctor` in its shell."
)
UNMATCHED = (
    f"{TOPIC}: /front/driver offers best_effort, volatile, but reliable, volatile is asked for, so nothing comes from "
    "it: set the parameter reliability to best_effort, or the camera's to reliable."
)


def test_each_reason_for_silence_is_said_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dino_ros.nodes.camera_topics.SILENCE", 0.5)
    bench.driver.create_subscription(Image, "/dino/front/objects", lambda message: None, 5)
    assert bench.until(lambda status: status.message == NOBODY).level == DiagnosticStatus.WARN
    for _ in range(5):
        bench.status()
    assert bench.warnings() == [NOBODY]

    publisher = bench.driver.create_publisher(CompressedImage, TOPIC, 5)
    assert bench.until(lambda status: status.message == OTHER_TYPE).level == DiagnosticStatus.ERROR
    bench.driver.destroy_publisher(publisher)

    publisher = bench.driver.create_publisher(Image, TOPIC, BEST_EFFORT)
    assert bench.until(lambda status: status.message == UNMATCHED).level == DiagnosticStatus.ERROR
    bench.driver.destroy_publisher(publisher)

    publisher = bench.driver.create_publisher(Image, TOPIC, RELIABLE)
    assert bench.until(lambda status: status.message == PAUSED).level == DiagnosticStatus.WARN
    frame = rgb_message(image(1), header(1, "camera"))
    bench.until(lambda status: publisher.publish(frame) or status.level == DiagnosticStatus.OK)
    bench.driver.destroy_publisher(publisher)

    assert bench.until(lambda status: status.message == NOBODY).level == DiagnosticStatus.STALE
    # Between two publishers there is a moment without any, in which the node may have looked.
    assert [line for line in bench.warnings() if line != NOBODY] == [OTHER_TYPE, UNMATCHED, PAUSED]
    assert bench.warnings()[-1] == NOBODY


def test_a_publisher_that_does_not_match_is_named_beside_one_that_does(bench: Bench) -> None:
    """At once, by the event of DDS, and for as long as it is there."""
    bench.driver.create_subscription(Image, "/dino/front/objects", lambda message: None, 5)
    good = bench.driver.create_publisher(Image, TOPIC, RELIABLE)
    timer = bench.node.create_timer(0.05, lambda: good.publish(rgb_message(image(1), header(1, "camera"))))
    bench.until(lambda status: values(status)["frames received"] != "0" and status.level == DiagnosticStatus.OK)
    for times in (1, 2):
        bad = bench.driver.create_publisher(Image, TOPIC, BEST_EFFORT)
        status = bench.until(lambda status: status.message == UNMATCHED)
        assert status.level == DiagnosticStatus.WARN
        bench.driver.destroy_publisher(bad)
        bench.until(lambda status: status.level == DiagnosticStatus.OK)
        assert bench.warnings().count(UNMATCHED) == times
    timer.cancel()


def test_a_subscriber_to_results_that_does_not_match_is_named(bench: Bench) -> None:
    bench.driver.create_subscription(Image, "/dino/front/attention_mask", lambda message: None, LATCHED)
    sentence = (
        "/dino/front/attention_mask: /front/driver asks for reliable, transient_local, but reliable, volatile is "
        "offered, so it hears nothing: subscribe with what is offered."
    )
    assert bench.until(lambda status: status.message == sentence).level == DiagnosticStatus.WARN
    bench.status()
    assert bench.warnings() == [sentence]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, "reliable, volatile"),
        ({"durability": DurabilityPolicy.TRANSIENT_LOCAL}, "reliable, transient_local"),
        ({"deadline": Duration(seconds=0.5)}, "reliable, volatile, deadline 0.5 s"),
        ({"liveliness": LivelinessPolicy.MANUAL_BY_TOPIC}, "reliable, volatile, manual_by_topic"),
        (
            {"liveliness_lease_duration": Duration(seconds=2)},
            "reliable, volatile, liveliness_lease_duration 2 s",
        ),
    ],
)
def test_what_keeps_two_profiles_apart_is_in_their_words(asked: dict[str, Any], shown: str) -> None:
    profile = QoSProfile(**QOS | asked)
    assert words(profile) == shown
    assert can_match(RELIABLE, profile) == (words(RELIABLE) == shown)
    assert can_match(profile, profile)
