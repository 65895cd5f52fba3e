"""The learner node beside a real perception node over DDS, in this process; only the training is a stand-in."""

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("sklearn")

from clients import Client, image, values
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from dino_ros.learning import latency, learner
from dino_ros.learning.learner import Report
from dino_ros.nodes import learner_node
from dino_ros.nodes.learner_node import LearnerNode, read_report
from dino_ros.nodes.managed_node import ManagedNode
from dino_ros.nodes.perception_node import PerceptionNode


class Training:
    """Makes a round's files at once: the student that runs, and scores that say it is better."""

    paused = False

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        product = Path(command[command.index("--out") + 1])
        if "judge" in command:
            scores = {"steadiness": 1.0, "sound": 1.0}
            product.write_text(
                json.dumps({"running": {"agreement": 0.4, **scores}, "candidate": {"agreement": 0.6, **scores}})
            )
        else:
            shutil.copy(command[command.index("head") + 1], product)

    def ended(self) -> int:
        return 0

    def said(self) -> str:
        return ""

    def pause(self, paused: bool) -> None:
        pass

    def end(self) -> None:
        pass


@pytest.fixture
def nodes(
    ros: None, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ManagedNode, LearnerNode]]:
    monkeypatch.setattr(learner_node, "TICK", 0.05)
    monkeypatch.setattr(learner_node, "EYE", str(student))
    monkeypatch.setattr(learner_node, "Job", Training)
    monkeypatch.setattr(learner, "FEWEST_HELD_BACK", 0)
    monkeypatch.setattr(latency, "FEWEST", 1)
    pair = PerceptionNode(), LearnerNode()
    given = {"folder": str(tmp_path / "seen"), "rate": 30.0, "fewest": 10, "trial": 1, "slowdown": 100.0}
    pair[0].set_parameters([Parameter("model", value=str(student)), Parameter("backend", value="onnxruntime")])
    pair[1].set_parameters([Parameter(name, value=value) for name, value in given.items()])
    executor = MultiThreadedExecutor(num_threads=4)
    for node in pair:
        executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield pair
    executor.shutdown()
    thread.join()
    for node in pair:
        node.stop()
        node.destroy_node()


def test_it_keeps_images_and_swaps_the_perception_nodes_student(
    nodes: tuple[ManagedNode, LearnerNode], client: Client, tmp_path: Path
) -> None:
    for node in nodes:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    client.listen("/dino/attention_mask")
    client.wait(lambda: client.camera.get_subscription_count() == 2, "both subscriptions")
    number = 0

    def learnt() -> bool:
        nonlocal number
        number += 1
        client.send(number, image(min(number, 15)))  # the camera then stands still: there is one round only
        client.pause(0.03)
        (status,) = nodes[1]._report(1.0)
        reports.append(values(status))
        return reports[-1]["outcome of the latest round"] == "the learnt student took over"

    reports: list[dict[str, str]] = []
    client.wait(learnt, "a round of learning", 60.0)
    folder = tmp_path / "seen"
    assert nodes[0]._value("model") == str(folder / "round_00001" / "student.onnx") == reports[-1]["good student"]
    assert int(reports[-1]["images to train on"]) == len([*(folder / "images").iterdir()]) >= 10
    assert float(reports[-1]["agreement of the candidate student"]) == 0.6
    assert nodes[1].trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert nodes[1].trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert nodes[1].trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert values(nodes[1]._report(1.0)[0])["good student"] == reports[-1]["good student"], "it is remembered"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"learn": "student"}, "set the parameter teacher"),
        ({"folder": "/dev/null"}, "name another folder"),
    ],
)
def test_what_cannot_be_used_is_said_at_configuring(ros: None, parameters: dict[str, Any], sentence: str) -> None:
    node = LearnerNode()
    node.set_parameters([Parameter(name, value=value) for name, value in parameters.items()])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert sentence in node._report(1.0)[0].message
    node.destroy_node()


def test_a_report_of_the_perception_node_is_read() -> None:
    def report(level: bytes, **rates: str) -> Report:
        pairs = {"model": "/a.onnx", "input rate (Hz)": "9.8", "output rate (Hz)": "9.8"} | rates
        pairs = {key.replace("_", " "): value for key, value in pairs.items()}
        status = DiagnosticStatus(
            level=level, message="said", values=[KeyValue(key=k, value=v) for k, v in pairs.items()]
        )
        return read_report(status)

    slow = {"latency p90 (ms)": "31.5"}
    silent = {"input rate (Hz)": "0.0", "output rate (Hz)": "0.0"}
    stuck = {"output rate (Hz)": "0.0"}
    assert report(DiagnosticStatus.OK, **slow) == Report("/a.onnx", 31.5)
    assert report(DiagnosticStatus.ERROR, **silent) == Report("/a.onnx", None)
    assert report(DiagnosticStatus.WARN, **stuck) == Report("/a.onnx", None, "said")
    assert report(DiagnosticStatus.OK, **stuck) == Report("/a.onnx", None), "nobody subscribes to the results"
