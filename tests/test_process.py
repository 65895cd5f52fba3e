"""The nodes as processes: however they are ended, they end at once and without a word."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from bags import write_bag
from clients import PERCEPTION
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from dino_ros.demo.lifecycle import bring_up


def node_process(body: str, module: str, *arguments: str) -> subprocess.Popen[str]:
    """A node whose `body` is changed first; its output is piped."""
    script = f"from dino_ros.nodes import {module}\n{body}\n{module}.main()"
    command = [sys.executable, "-c", script, "--ros-args", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SAY_WHEN_HANDLED = """
# Before that Python itself handles signals.
import signal
handle = signal.signal
def said(number, handler):
    handle(number, handler)
    if number == signal.SIGTERM:
        print("handled", flush=True)
signal.signal = said
"""
LOADS_FOR_AN_HOUR = """
import time
from dino_ros.perception.perceiver import Perceiver
Perceiver.load = lambda *arguments: print("loading", flush=True) or time.sleep(3600)
"""


def ends_cleanly(process: subprocess.Popen[str], numbers: tuple[signal.Signals, ...]) -> None:
    """Send these signals, one after the other."""
    for number in numbers:
        if process.poll() is None:
            process.send_signal(number)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "terminate" not in errors


@pytest.mark.parametrize("numbers", [(signal.SIGINT,) * 2, (signal.SIGTERM,) * 2, (signal.SIGINT, signal.SIGTERM) * 3])
@pytest.mark.parametrize("wait", [0.0, 0.02, 0.1, 0.4])
def test_signals_while_it_starts(ros: None, wait: float, numbers: tuple[signal.Signals, ...]) -> None:
    process = node_process(SAY_WHEN_HANDLED, "perception_node")
    assert process.stdout.readline() == "handled\n"
    time.sleep(wait)
    ends_cleanly(process, numbers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_it_loads_a_student(ros: None, number: signal.Signals) -> None:
    """Loading cannot be interrupted: the process ends without waiting for it, and leaves the network all the same."""
    client = Node("client")
    process = node_process(LOADS_FOR_AN_HOUR, "perception_node")
    service = client.create_client(ChangeState, f"{PERCEPTION}/change_state")
    assert service.wait_for_service(timeout_sec=20)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_CONFIGURE
    service.call_async(request)
    assert process.stdout.readline() == "loading\n"
    ends_cleanly(process, (number, number))
    deadline = time.monotonic() + 10  # DDS takes 20 s to give up a participant that said nothing
    while "perception" in client.get_node_names():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.destroy_node()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_it_is_active(ros: None, student: Path, number: signal.Signals) -> None:
    client = Node("client")
    process = node_process("", "perception_node", "-p", f"model:={student}", "-p", "backend:=onnxruntime")
    assert bring_up(client, PERCEPTION)
    ends_cleanly(process, (number, number, number))
    client.destroy_node()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_camera_node(ros: None, tmp_path: Path, number: signal.Signals) -> None:
    write_bag(tmp_path / "bag", frames=5)
    process = node_process(
        "", "camera_node", "-p", f"path:={tmp_path}/bag", "-p", "topic:=/raw", "-p", "loop:=true",
        "-p", "wait_for_subscribers:=0",
    )  # fmt: skip
    client = Node("client")
    deadline = time.monotonic() + 20
    while not client.count_publishers("/image_raw"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ends_cleanly(process, (number, number))
    client.destroy_node()
