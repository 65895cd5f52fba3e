"""Several cameras, rates, and a student that is swapped under a stream: the node as a process, over real DDS."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from clients import PERCEPTION, Client, header, image, values
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from students import changed, write_student

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.messages import to_array
from dino_ros.nodes.callback_thread import CallbackThread
from dino_ros.nodes.camera_topics import CameraTopics
from dino_ros.nodes.messages import labels_message, rgb_message
from dino_ros.perception.perceiver import Perceiver

CAMERAS = ["front", "left", "right", "rear"]
DEAD = "rear"


def test_four_cameras_one_of_them_dead(client: Client, student: Path) -> None:
    cameras = {name: client.create_publisher(Image, f"/dino/{name}/image", QoSProfile(depth=50)) for name in CAMERAS}
    parameters = {"model": str(student), "reliability": "reliable", "cameras": CAMERAS, "mask_steady": 0.0}
    perceiver = Perceiver.load(student)
    with running("perception_node", parameters, ()) as process:
        assert bring_up(client, PERCEPTION)
        masks = {name: client.listen(f"/dino/{name}/attention_mask") for name in CAMERAS}
        client.wait(lambda: all(camera.get_subscription_count() for camera in cameras.values()), "all subscriptions")
        sent: dict[str, dict[int, np.ndarray]] = {name: {} for name in CAMERAS}
        for number in range(1, 41):
            for index, name in enumerate(CAMERAS):
                if name == DEAD:
                    continue
                rgb = image(4 * number + index)
                message = rgb_message(rgb, header(number, f"{name} {number}"))
                cameras[name].publish(message)
                sent[name][number] = rgb
            client.pause(1 / 30)
        for name in CAMERAS:
            if name != DEAD:
                client.wait(
                    lambda n=name: masks[n] and masks[n][-1].header.frame_id == f"{n} 40", f"the last mask of {name}"
                )
        assert masks[DEAD] == []
        for name in CAMERAS:
            numbers = [int(mask.header.frame_id.split()[1]) for mask in masks[name]]
            assert numbers == sorted(set(numbers))
            for mask, number in zip(masks[name], numbers, strict=True):
                assert mask.header.frame_id == f"{name} {number}"
                assert mask.header.stamp.nanosec == number * 1_000_000
                np.testing.assert_array_equal(to_array(mask), perceiver(sent[name][number]).mask)
        # Each camera has a status of its own, and each frame is accounted for.
        for name in CAMERAS:
            status = client.diagnosis(lambda s: True, f"{PERCEPTION}: perception {name}")
            assert values(status)["image topic"] == f"/dino/{name}/image"
            superseded = int(values(status)["frames superseded"])
            assert superseded + len(masks[name]) == (0 if name == DEAD else 40)
        assert process.poll() is None


@pytest.mark.parametrize(
    ("cameras", "sentence"), [(["front", "front"], "['front', 'front']"), (["front door"], "'front door'")]
)
def test_names_that_no_topic_may_have_end_the_node(
    client: Client, capfd: pytest.CaptureFixture[str], cameras: list[str], sentence: str
) -> None:
    """With one sentence, before a student is loaded."""
    with running("perception_node", {"model": "not/looked/at.onnx", "cameras": cameras}, ()) as process:
        assert process.wait(timeout=60) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "[ERROR]" in line]
    assert sentence in said


def test_decimation_and_rate_hold(client: Client, student: Path) -> None:
    parameters = {"model": str(student), "reliability": "reliable", "input_decimation": 4}
    with running("perception_node", parameters, ()):
        assert bring_up(client, PERCEPTION)
        masks = client.listen("/dino/attention_mask")
        client.camera_heard()
        for number in range(1, 21):
            client.send(number, image(number))
            client.pause(0.04)
        client.wait(lambda: len(masks) == 5, "every fourth frame")
        assert [mask.header.frame_id for mask in masks] == [f"camera {n}" for n in (1, 5, 9, 13, 17)]
        assert client.set_parameter("input_decimation", 1) == (True, "")
        assert client.set_parameter("max_rate", 10.0) == (True, "")
        masks.clear()
        start = time.monotonic()
        for number in range(1, 91):
            client.send(number, image(number))
            client.pause(1 / 60)
        seconds = time.monotonic() - start
        client.pause(0.5)
        assert 1 <= len(masks) <= 10 * seconds + 1


def test_a_student_is_swapped_under_a_stream_without_losing_a_frame(
    client: Client, student: Path, tmp_path: Path
) -> None:
    other, broken = tmp_path / "other.onnx", tmp_path / "broken.onnx"
    write_student(other, changed(mean=(0.1, 0.1, 0.1)))  # another file, of the same outputs
    broken.write_bytes(other.read_bytes()[:500])
    with running("perception_node", {"model": str(student), "reliability": "reliable"}, ()) as process:
        assert bring_up(client, PERCEPTION)
        masks = client.listen("/dino/attention_mask")
        client.camera_heard()
        sent = 0

        def frame() -> None:
            nonlocal sent
            sent += 1
            client.send(sent, image(sent))

        timer = client.create_timer(1 / 30, frame)
        client.wait(lambda: len(masks) > 15, "masks before the swap")
        successful, reason = client.set_parameter("model", str(broken))
        assert not successful
        assert "broken.onnx" in reason
        before = client.diagnosis(lambda s: True)
        assert values(before)["model"] == str(student)
        assert client.set_parameter("model", str(other)) == (True, "")
        after = client.diagnosis(lambda s: values(s)["model"] == str(other))
        assert values(after)["frames unusable"] == "0"
        count = len(masks)
        client.wait(lambda: len(masks) > count + 15, "masks after the swap")
        timer.cancel()
        client.wait(lambda: masks[-1].header.frame_id == f"camera {sent}", "the last frame's mask")
        numbers = [int(mask.header.frame_id.split()[1]) for mask in masks]
        assert numbers == sorted(set(numbers))
        status = client.diagnosis(lambda s: float(values(s)["input rate (Hz)"]) == 0)
        assert len(masks) + int(values(status)["frames superseded"]) == sent
        assert process.poll() is None


def test_a_topic_that_is_matched_while_others_are_advertised_is_no_error(
    ros: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = LifecycleNode("perception")
    advertise = node.create_lifecycle_publisher

    def advertise_and_match(*arguments: object, event_callbacks: PublisherEventCallbacks, **options: object) -> object:
        publisher = advertise(*arguments, event_callbacks=event_callbacks, **options)
        event_callbacks.matched(None)  # as an executor in another thread may do at once
        return publisher

    monkeypatch.setattr(node, "create_lifecycle_publisher", advertise_and_match)
    camera = CameraTopics(node, "", False, "best_effort", CallbackThread(node), str)
    assert not camera.listened()
    camera.destroy()
    node.destroy_node()


@pytest.mark.parametrize(("asked", "encoding"), [(True, "mono16"), (False, "16UC1")])
def test_16uc1_is_gray_where_that_is_asked_for(ros: None, asked: bool, encoding: str) -> None:
    node = LifecycleNode("perception")
    camera = CameraTopics(node, "", False, "best_effort", CallbackThread(node), str, intensity=asked)
    taken: list[Any] = []
    camera.activate(SimpleNamespace(offer=lambda camera, message, stamp: taken.append(message)))
    values = np.arange(12, dtype="<u2").reshape(3, 4)
    camera._receive(serialize_message(labels_message(values, header(1, "camera"))))
    assert [message.encoding for message in taken] == [encoding]
    assert taken[0].data.tobytes() == values.tobytes()
    camera.destroy()
    node.destroy_node()


def test_a_student_with_fewer_heads_than_the_mask_needs_is_refused(client: Client, student: Path) -> None:
    with running("perception_node", {"model": "", "mask_attention_head": 3}, ()):
        assert bring_up(client, PERCEPTION)
        successful, reason = client.set_parameter("model", str(student))
        assert not successful
        assert "mask_attention_head is 3, but the student has the heads 0 to 2" in reason
