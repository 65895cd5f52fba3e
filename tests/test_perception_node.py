"""The perception node as a process of its own, over real DDS."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from clients import (
    PERCEPTION,
    Client,
    image,
    values,
)
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from dino_ros.backends import BACKENDS
from dino_ros.demo.lifecycle import bring_up, change_state
from dino_ros.demo.run import running
from dino_ros.images.encodings import to_rgb
from dino_ros.images.overlay import overlay
from dino_ros.masks.descriptors import object_descriptors
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.messages import to_array
from dino_ros.nodes import perception_node
from dino_ros.nodes.detections import vision
from dino_ros.nodes.parameters import PERCEPTION_PARAMETERS
from dino_ros.perception.perceiver import OUTPUTS, Perceiver


@pytest.fixture
def active(client: Client, student: Path) -> Iterator[Client]:
    """A client, and a perception node that is active with the tiny student."""
    with running("perception_node", {"model": str(student), "reliability": "reliable"}, ()) as process:
        assert bring_up(client, PERCEPTION)
        yield client
        assert process.poll() is None, "the node died"
    assert process.returncode == 0, "the node did not end well"


def test_every_output_is_what_the_perceiver_says(active: Client, student: Path) -> None:
    topics = (
        "attention_mask",
        "objects",
        "object_descriptors",
        "attention",
        "features",
        "embedding",
        "features_rgb",
        "overlay",
    )
    received = {topic: active.listen(f"/dino/{topic}") for topic in topics}
    jpegs = received["overlay/compressed"] = active.listen("/dino/overlay/compressed", CompressedImage)
    active.camera_heard()
    active.pause(0.5)  # until the node knows them all
    perceiver, maker = Perceiver.load(student), MaskMaker()
    request = perceiver.request(OUTPUTS)
    for number in range(1, 9):
        rgb = image(1 + number // 3)  # three frames of each, so that something is carried along
        sent = active.send(number, rgb)
        active.wait(lambda n=number: all(len(messages) == n for messages in received.values()), "all outputs")
        prepared = perceiver.prepare_image(rgb, stamp=number * 1_000_000)
        result = perceiver.infer([prepared.input], sorted(request.student_outputs))[0]
        expected = perceiver.finish(result, prepared, request, maker)
        attention = expected.attention.transpose(1, 2, 0)
        assert all(messages[-1].header == sent.header for messages in received.values())
        np.testing.assert_array_equal(to_array(received["attention_mask"][-1]), expected.mask)
        np.testing.assert_array_equal(to_array(received["objects"][-1]), expected.objects)
        np.testing.assert_allclose(to_array(received["attention"][-1]), attention, atol=1e-6)
        np.testing.assert_allclose(to_array(received["features"][-1]), expected.features, atol=1e-6)
        np.testing.assert_allclose(to_array(received["embedding"][-1])[0, 0], expected.embedding, atol=1e-6)
        descriptors = object_descriptors(expected.features, expected.objects)
        np.testing.assert_allclose(to_array(received["object_descriptors"][-1])[:, 0], descriptors, atol=1e-6)
        colors = perceiver.feature_colors.rgb(expected.features).astype(int)
        assert np.abs(to_rgb(received["features_rgb"][-1]) - colors).max() <= 1
        drawn = to_rgb(received["overlay"][-1])
        np.testing.assert_array_equal(drawn, overlay(rgb, expected.mask, expected.attention))
        assert jpegs[-1].format == "rgb8; jpeg compressed bgr8"
        decoded = cv2.imdecode(np.frombuffer(jpegs[-1].data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        jpeg = cv2.imencode(".jpg", drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        np.testing.assert_array_equal(decoded, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1])
        assert np.abs(decoded.astype(int) - drawn).mean() < np.abs(decoded[:, :, ::-1].astype(int) - drawn).mean()


def test_boxes_are_published_only_where_vision_msgs_is_installed(active: Client) -> None:
    active.wait(lambda: active.count_publishers("/dino/objects"), "the topics")
    for topic in ("/dino/detections", "/dino/label_info"):
        assert active.count_publishers(topic) == (1 if vision else 0)


@pytest.mark.skipif(not vision, reason="vision_msgs is not installed")
def test_whoever_comes_later_learns_the_names_of_the_classes_and_starts_nothing(active: Client) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    received: list[Any] = []
    active.create_subscription(vision.LabelInfo, "/dino/label_info", received.append, latched)
    active.wait(lambda: received, "the names")
    assert [known.class_name for known in received[0].class_map] == ["object"]
    assert active.camera.get_subscription_count() == 0


def test_nothing_is_computed_that_nobody_subscribes_to(active: Client) -> None:
    report = active.diagnosis(lambda s: values(s)["state"] == "active")
    assert "no subscribers" in report.message
    for number in (1, 2):
        assert active.camera.get_subscription_count() == 0
        active.send(number, image(0))
        masks = active.listen("/dino/attention_mask")
        active.camera_heard()
        active.send(10 + number, image(number))
        active.wait(lambda masks=masks: masks, "a mask now that somebody listens")
        assert [m.header.frame_id for m in masks] == [f"camera {10 + number}"]
        active.destroy_subscription(active.subscriptions_by_topic.pop("/dino/attention_mask"))
        active.wait(lambda: active.camera.get_subscription_count() == 0, "the camera to be left")


def test_the_newest_frame_wins_and_the_others_are_counted(active: Client) -> None:
    overlays = active.listen("/dino/overlay")
    active.camera_heard()
    frames = [image(0, 1080, 1920) for _ in range(3)]
    for number in range(1, 41):
        active.send(number, frames[number % 3])
    active.wait(lambda: overlays and overlays[-1].header.frame_id == "camera 40", "the newest frame")
    numbers = [int(message.header.frame_id.split()[1]) for message in overlays]
    assert numbers == sorted(set(numbers))
    superseded = int(values(active.diagnosis(lambda s: True))["frames superseded"])
    assert superseded > 0
    assert len(numbers) + superseded <= 40


def test_mask_parameters_change_live_and_the_others_are_refused(active: Client, student: Path) -> None:
    masks = active.listen("/dino/attention_mask")
    active.camera_heard()
    rgb = image(3)
    changes = [("mask_steady", 0.0), ("mask_method", "attention"), ("mask_refine", False)]
    changes += [("mask_attention_mass", 0.2), ("mask_attention_head", 2), ("mask_components", 1)]
    for number, (name, value) in enumerate(changes, start=1):
        assert active.set_parameter(name, value) == (True, "")
        active.send(number, rgb)
        active.wait(lambda n=number: len(masks) == n, "a mask")
        so_far = {name.removeprefix("mask_"): value for name, value in changes[:number]}
        expected = Perceiver.load(student)(rgb, ["mask"], MaskParameters(**so_far)).mask
        np.testing.assert_array_equal(to_array(masks[-1]), expected)
    for name, value, reason in (
        ("mask_attention_head", 3, "student has the heads 0 to 2"),
        ("mask_attention_mass", 1.5, "mask_attention_mass"),
        ("mask_steady", 1.0, "mask_steady"),
        ("mask_method", "guess", "mask_method is 'guess'"),
        ("mask_method", "foreground", "mask_method is foreground, but the student"),
        ("model", "other.onnx", "There is no student 'other.onnx'"),
        ("backend", "onnxruntime", "read when the node is configured"),
        ("image_transport", "compressed", "read when the node is configured"),
    ):
        successful, why = active.set_parameter(name, value)
        assert not successful
        assert reason in why
    active.send(9, rgb)
    active.wait(lambda: len(masks) == len(changes) + 1, "a mask after refusals")
    np.testing.assert_array_equal(to_array(masks[-1]), expected)


def test_every_parameter_is_described(active: Client) -> None:
    names = [row.name for row in PERCEPTION_PARAMETERS]
    for row, descriptor in zip(PERCEPTION_PARAMETERS, active.describe(names), strict=True):
        assert descriptor.description == row.rule.description
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([row.rule.bounds] if row.rule.bounds else [])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"step": 100}, "needs a step of at least 192 bytes, its step is 100"),
        ({"data": b"too short"}, "needs 9216 bytes, it has 9"),
        ({"encoding": "16UC1"}, "'16UC1'"),
        ({"height": 0, "data": b""}, "is empty"),
    ],
)
def test_a_frame_that_cannot_be_used_is_named_and_the_next_one_served(
    active: Client, fields: dict[str, object], sentence: str
) -> None:
    masks = active.listen("/dino/attention_mask")
    active.camera_heard()
    active.send(1, image(1), **fields)
    warning = active.diagnosis(lambda s: sentence in s.message)
    assert warning.level == DiagnosticStatus.WARN
    assert values(warning)["frames unusable"] == "1"
    active.send(2, image(2))
    active.wait(lambda: masks, "the next frame's mask")
    assert masks[0].header.frame_id == "camera 2"


def test_lifecycle_round_trips(client: Client, student: Path) -> None:
    with running("perception_node", {"model": "missing.onnx", "reliability": "reliable"}, ()) as process:
        assert not change_state(client, PERCEPTION, Transition.TRANSITION_CONFIGURE)
        warning = client.diagnosis(lambda s: "missing.onnx" in s.message)
        assert "no student 'missing.onnx'" in warning.message
        assert client.set_parameter("model", str(student)) == (True, "")
        assert client.set_parameter("backend", "abacus") == (
            False,
            f"backend is 'abacus': choose one of auto, {', '.join(BACKENDS)}.",
        )
        for transition in (Transition.TRANSITION_DEACTIVATE, 250):  # one that the state does not have, and none at all
            assert not change_state(client, PERCEPTION, transition)
        for round_trip in range(2):
            assert change_state(client, PERCEPTION, Transition.TRANSITION_CONFIGURE)
            for _ in range(2):
                assert client.count_subscribers("/dino/image") == 0
                masks = client.listen("/dino/attention_mask")
                assert change_state(client, PERCEPTION, Transition.TRANSITION_ACTIVATE)
                client.camera_heard()
                client.send(round_trip, image(1))
                client.wait(lambda masks=masks: masks, "a mask")
                client.destroy_subscription(client.subscriptions_by_topic.pop("/dino/attention_mask"))
                assert change_state(client, PERCEPTION, Transition.TRANSITION_DEACTIVATE)
                client.wait(lambda: client.camera.get_subscription_count() == 0, "the camera to be left")
            assert change_state(client, PERCEPTION, Transition.TRANSITION_CLEANUP)
            client.wait(lambda: client.count_publishers("/dino/attention_mask") == 0, "the topics to go")
        assert process.poll() is None


def test_compressed_transport_and_remapping(ros: None, student: Path) -> None:
    client = Client(CompressedImage, "/front/image_raw/compressed")
    parameters = {"model": str(student), "reliability": "reliable", "image_transport": "compressed"}
    remaps = ("image/compressed:=/front/image_raw/compressed", "__ns:=/robot/eyes")
    with running("perception_node", parameters, remaps):
        assert bring_up(client, "/robot/eyes/perception")
        masks = client.listen("/robot/eyes/attention_mask")
        client.camera_heard()
        rgb = image(5, 100, 120)
        png = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
        client.camera.publish(CompressedImage(format="png", data=b"broken"))
        client.camera.publish(CompressedImage(format="png", data=png))
        client.wait(lambda: masks, "a mask")
        np.testing.assert_array_equal(to_array(masks[0]), Perceiver.load(student)(rgb).mask)
    client.destroy_node()


@pytest.mark.parametrize(
    ("remaps", "topic"),
    [
        (("image:=/front/image_raw",), "/front/image_raw/compressed"),
        (("image:=/front/image_raw", "image/compressed:=/rear/jpeg"), "/rear/jpeg"),
        ((), "/dino/image/compressed"),
    ],
)
def test_compressed_images_move_with_the_image_topic(
    ros: None, student: Path, remaps: tuple[str, ...], topic: str
) -> None:
    client = Client(CompressedImage, topic)
    parameters = {"model": str(student), "reliability": "reliable", "image_transport": "compressed"}
    with running("perception_node", parameters | {"max_image_pixels": 100 * 120}, remaps):
        assert bring_up(client, PERCEPTION)
        masks = client.listen("/dino/attention_mask")
        client.camera_heard()
        png = cv2.imencode(".png", image(5, 100, 120))[1].tobytes()
        client.camera.publish(CompressedImage(format="png", data=png))
        client.wait(lambda: masks, "a mask")
        assert client.set_parameter("max_image_pixels", 100 * 120 - 1) == (True, "")
        client.camera.publish(CompressedImage(format="png", data=png))
        client.diagnosis(lambda s: "120x100 pixels is refused, since it has more than 11999" in s.message)
    client.destroy_node()


def test_every_parameter_can_be_set_to_the_value_that_it_has(active: Client) -> None:
    """As `ros2 param load` does with what `ros2 param dump` wrote."""
    names = [row.name for row in PERCEPTION_PARAMETERS]
    request = GetParameters.Request(names=names)
    kept = active.call(GetParameters, f"{PERCEPTION}/get_parameters", request).values
    together = [ParameterMessage(name=name, value=value) for name, value in zip(names, kept, strict=True)]
    result = active.call(
        SetParametersAtomically,
        f"{PERCEPTION}/set_parameters_atomically",
        SetParametersAtomically.Request(parameters=together),
    ).result
    assert (result.successful, result.reason) == (True, "")
    for name in names:  # nor can one be taken away
        empty = SetParameters.Request(parameters=[ParameterMessage(name=name)])
        assert not active.call(SetParameters, f"{PERCEPTION}/set_parameters", empty).results[0].successful, name


def test_a_failed_transition_is_said_until_the_next_attempt(client: Client, student: Path) -> None:
    with running("perception_node", {"model": "missing.onnx"}, ()):
        assert not change_state(client, PERCEPTION, Transition.TRANSITION_CONFIGURE)
        for _ in range(3):  # seconds
            failed = client.diagnosis(lambda s: True)
            assert failed.level == DiagnosticStatus.ERROR
            assert "no student 'missing.onnx'" in failed.message
        assert client.set_parameter("model", str(student)) == (True, "")
        assert bring_up(client, PERCEPTION)
        working = client.diagnosis(lambda s: values(s)["state"] == "active")
        assert working.level == DiagnosticStatus.OK
        assert working.hardware_id
        assert working.hardware_id in values(working)["backend"]


@pytest.fixture
def node(ros: None) -> Iterator[perception_node.PerceptionNode]:
    """The node in this process, where the parts that fail can be chosen."""
    node = perception_node.PerceptionNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.stop()
    node.destroy_node()


def test_what_any_transition_raises_is_logged_and_stands_until_the_next_attempt(
    node: perception_node.PerceptionNode,
    client: Client,
    student: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert client.set_parameter("model", str(student)) == (True, "")
    sentence = "The transition {} failed: ZeroDivisionError: division by zero"

    with monkeypatch.context() as patch:
        patch.setattr(perception_node, "CameraTopics", lambda *arguments: 1 / 0)
        assert node.trigger_configure() != TransitionCallbackReturn.SUCCESS
    client.diagnosis(lambda status: status.message == sentence.format("configure"))
    failed = client.diagnosis(lambda status: True)  # a second later
    assert (failed.level, failed.message) == (DiagnosticStatus.ERROR, sentence.format("configure"))

    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert client.diagnosis(lambda status: values(status)["state"] == "inactive").level == DiagnosticStatus.OK
    with monkeypatch.context() as patch:
        patch.setattr(perception_node, "Pipeline", lambda *arguments: 1 / 0)
        assert node.trigger_activate() != TransitionCallbackReturn.SUCCESS
    client.diagnosis(lambda status: status.message == sentence.format("activate"))
    failed = client.diagnosis(lambda status: True)
    assert (failed.level, failed.message) == (DiagnosticStatus.ERROR, sentence.format("activate"))
    assert values(failed)["state"] == "unconfigured"

    log = capfd.readouterr().err
    assert [log.count(sentence.format(transition)) for transition in ("configure", "activate")] == [1, 1]


@pytest.mark.parametrize("names", [["a b"], ["1"], ["{camera}"], ["a//b"], ["front", "front"]])
def test_names_that_are_no_topics_are_refused(client: Client, names: list[str]) -> None:
    with running("perception_node", {}, ()):
        refused, reason = client.set_parameter("cameras", names)
        assert not refused
        assert "cameras" in reason


@pytest.mark.parametrize(
    "value",
    [
        "cameras:=[]",
        "cameras:=['1']",
        "mask_attention_mass:=1",
        "mask_attention_mass:=2.0",
        "mask_method:=guess",
        "reliability:=perhaps",
        "model:=",
        "model:=[1",
    ],
)
def test_a_bad_parameter_at_the_start_is_named(value: str) -> None:
    command = [sys.executable, "-m", "dino_ros.nodes.perception_node", "--ros-args", "-p", value]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert value.partition(":=")[0] in finished.stderr
    assert "Traceback" not in finished.stderr
