"""What `dino-ros view` shows of a running node, over real DDS."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")

from clients import PERCEPTION, Client, image
from clients_view import Page, unanswered
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.errors import UserError
from dino_ros.nodes import running_node
from dino_ros.nodes.detections import vision
from dino_ros.nodes.running_node import RunningNode
from dino_ros.perception.perceiver import Perceiver
from dino_ros.view.scene import Place, Scene


@pytest.fixture
def active(client: Client, student: Path, tmp_path: Path) -> Iterator[Client]:
    """A client, and a perception node that is active with the tiny student."""
    with running("perception_node", {"model": str(student), "taught_folder": str(tmp_path)}, ()):
        assert bring_up(client, PERCEPTION)
        yield client


def assert_what_is_clicked_and_named_is_learnt_by_the_node(active: Client, viewed: RunningNode) -> None:
    rgb = np.full((32, 48, 3), (60, 90, 60), np.uint8)
    rgb[8:24, 16:32] = (220, 30, 30)
    number, scene = 1000, viewed.scene(0, 0, ())

    def seen() -> Scene | None:
        nonlocal number, scene
        number += 1
        active.send(number, rgb)
        scene = viewed.scene(scene.number if scene else 0, 0.05, ("taught",))
        return scene

    def done(step: Callable[[], None]) -> list[Any]:
        """Send images until a step that waits for the node has ended; returns what it raised."""
        raised: list[Any] = []

        def run() -> None:
            try:
                step()
            except UserError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        active.wait(lambda: (seen() and False) or not thread.is_alive(), "the node to learn")
        return raised

    active.wait(seen, "an image")
    pointed = viewed.point_out(0, Place(0.5, 0.5))
    (refused,) = done(lambda: viewed.teach(pointed.number, "objects", True))
    assert "objects cannot be the name of an object" in str(refused)
    assert done(lambda: viewed.teach(pointed.number, "square", True)) == []
    assert viewed.taught() == {"square": 1}
    active.wait(lambda: seen() and scene.taught, "where it is")
    score = scene.taught["square"].score
    assert score > 0.5 if vision else score is None
    found = scene.taught["square"].mask > 0
    assert found[12:20, 20:28].all()
    assert found.mean() < 0.3
    assert done(lambda: viewed.forget("square")) == []
    active.wait(lambda: not viewed.taught(), "it to be forgotten")


def test_a_node_is_subscribed_to_only_while_somebody_looks(active: Client, student: Path) -> None:
    viewed = RunningNode(PERCEPTION, None)
    active.wait(lambda: viewed.status(), "diagnostics")
    assert viewed.status()["student"] == student.stem
    assert active.camera.get_subscription_count() == 0
    number, scene = 0, None
    layers: tuple[str, ...] = ("attention", "similarity")
    wanted: tuple[Any, ...] = (lambda scene: scene.features, lambda scene: scene.attention)

    def seen() -> bool:
        nonlocal number, scene
        number += 1
        active.send(number, image(1))
        scene = viewed.scene(0, 0.05, layers)
        return scene is not None and all(value(scene) is not None for value in wanted)

    active.wait(seen, "a scene")
    assert scene is not None
    expected = Perceiver.load(student)(image(1))
    np.testing.assert_array_equal(scene.rgb, image(1))
    np.testing.assert_allclose(scene.features, expected.features, atol=1e-6)
    np.testing.assert_allclose(scene.attention, expected.attention, atol=1e-6)
    hidden = [f"/dino/{topic}" for topic in ("attention_mask", "objects", "features_rgb")]
    assert [active.count_subscribers(topic) for topic in hidden] == [0, 0, 0]

    layers, wanted = ("mask", "features"), (lambda scene: scene.mask, lambda scene: scene.colors)
    active.wait(seen, "the mask and the node's colors")
    np.testing.assert_array_equal(scene.colors, Perceiver.load(student).feature_colors.rgb(expected.features))
    active.wait(lambda: active.count_subscribers("/dino/features") == 0, "the features to be left")

    viewed.set_parameters({"mask_steady": 0.25})
    assert viewed.parameters()["mask_steady"] == 0.25
    with pytest.raises(UserError, match="mask_attention_head"):
        viewed.set_parameters({"mask_attention_head": 60})
    assert_what_is_clicked_and_named_is_learnt_by_the_node(active, viewed)
    active.wait(lambda: active.camera.get_subscription_count() == 0, "the camera to be left")
    viewed.destroy_node()


def test_what_a_node_said_before_it_died_is_not_shown_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = client.create_publisher(DiagnosticArray, "/diagnostics", 10)
    viewed = RunningNode(PERCEPTION, None)
    facts = [KeyValue(key="output rate (Hz)", value="14.8"), KeyValue(key="image topic", value="/image")]
    report = DiagnosticArray(status=[DiagnosticStatus(name=f"{PERCEPTION}: perception", values=facts)])

    def heard() -> bool:
        reports.publish(report)
        return viewed.status().get("rate") == "14.8 Hz"

    client.wait(heard, "the rate")
    assert "is waiting for /image" in viewed.waiting_for()
    monkeypatch.setattr(running_node, "PATIENCE", 0.1)
    client.wait(lambda: viewed.status()["rate"].startswith(f"0 Hz: {PERCEPTION} is not heard for"), "silence")
    assert "is not heard: launch it" in viewed.waiting_for()
    viewed.destroy_node()


def test_the_learner_of_the_node_is_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = client.create_publisher(DiagnosticArray, "/diagnostics", 10)
    viewed = RunningNode(PERCEPTION, None)
    learnt = "/seen/round_00002/student.onnx"

    def report(name: str, message: str, **values: str) -> DiagnosticStatus:
        pairs = [KeyValue(key=key.replace("_", " "), value=value) for key, value in values.items()]
        return DiagnosticStatus(name=name, message=message, values=pairs)

    def said(message: str, **values: str) -> dict[str, str]:
        """What is shown once a learner has said something of this node, and another of another."""
        statuses = [
            report(f"{PERCEPTION}: perception", "", model=learnt, image_topic="/image"),
            report("/dino/learner: learner", message, perception_node=PERCEPTION, **values),
            report("/other/learner: learner", "elsewhere", perception_node="/other/perception"),
        ]
        published = DiagnosticArray(status=statuses)
        client.wait(lambda: reports.publish(published) or viewed.learner().get("state") == message, "the learner")
        return viewed.learner()

    assert viewed.learner() == {}
    assert said("the disk is full") == {"state": "the disk is full"}
    held = {"images_to_train_on": "40", "images_held_back": "10", "disk_used_(MB)": "1.5", "given_student": "/a.onnx"}
    scores = {"agreement_of_the_running_student": "0.411", "agreement_of_the_candidate_student": "0.622"}
    outcome = {"outcome_of_the_latest_round": "the learnt student took over"}
    assert said("active, collecting", **held, **scores, **outcome) == {
        "state": "active, collecting",
        "student": "round_00002/student",
        "images": "40 to train on, 10 held back (1.5 MB)",
        "latest round": "the learnt student took over",
        "agreement": "0.622 instead of 0.411",
    }
    assert said("active, trial", **held | {"given_student": learnt}, **outcome)["student"] == "student, as given"
    monkeypatch.setattr(running_node, "PATIENCE", 0.1)
    client.wait(lambda: viewed.learner()["state"].startswith("not heard for"), "silence")
    viewed.destroy_node()


def test_ctrl_c_ends_it_without_a_word(ros: None) -> None:
    command = [sys.executable, "-m", "dino_ros.cli", "view", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("Open http://localhost:"))
        page = Page(int(line.split(":")[2].partition("/")[0]))
        told = page.frame(after=0)
        assert "is not heard" in told["waiting_for"]
        # Two requests are on their way, one of which would wait for the node's answer.
        waiting = [
            threading.Thread(target=unanswered, args=(request,))
            for request in (lambda: page.frame(after=0), lambda: page.post("/parameters", {"mask_steady": 0.25}))
        ]
        for thread in waiting:
            thread.start()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, "")
        for thread in waiting:
            thread.join()
    finally:
        process.kill()
