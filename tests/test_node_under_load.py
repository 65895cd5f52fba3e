"""The perception node over real DDS, under random messages, parameters and transitions, and more frames than it can
process: afterwards it works as before."""

import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis")
rclpy = pytest.importorskip("rclpy")
pytest.importorskip("scipy")

from clients import PERCEPTION, Client, header, image
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from test_fuzz import cdr, fuzz, images, values

from benchmarks import soak
from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.nodes.parameters import PERCEPTION_PARAMETERS

TRANSITIONS = {
    ("unconfigured", Transition.TRANSITION_CONFIGURE): "inactive",
    ("inactive", Transition.TRANSITION_ACTIVATE): "active",
    ("active", Transition.TRANSITION_DEACTIVATE): "inactive",
    ("inactive", Transition.TRANSITION_CLEANUP): "unconfigured",
}
"""State and transition to the next state (design.ros2.org/articles/node_lifecycle.html); others do not exist."""


class Caller:
    """Calls one service again and again."""

    def __init__(self, node: Client, kind: Any, name: str) -> None:
        self._node = node
        self._client = node.create_client(kind, f"{PERCEPTION}/{name}")
        node.wait(self._client.service_is_ready, name)

    def __call__(self, request: Any, patience: float = 30.0) -> Any:
        """The answer; None if there is none for `patience` seconds."""
        future = self._client.call_async(request)
        rclpy.spin_until_future_complete(self._node, future, timeout_sec=patience)
        return future.result() if future.done() else None


@pytest.fixture
def node(client: Client, student: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node's process; it must end well."""
    parameters = {"model": str(student), "backend": "onnxruntime", "reliability": "reliable"}
    with running("perception_node", parameters, ()) as process:
        yield process
        assert process.poll() is None, "the node died"
    assert process.returncode == 0, "the node did not end well"


def serialized_image(message: Any) -> bytes:
    """The bytes of a message of `images`."""
    whole = Image(header=header(1, "random"))
    for field in fields(message):
        value = getattr(message, field.name)
        setattr(whole, field.name, value.tobytes() if field.name == "data" else value)
    return bytes(serialize_message(whole))


def parameter_message(name: str, value: Any) -> ParameterMessage:
    return Parameter(name, value=value).to_parameter_msg()


NAMES = [row.name for row in PERCEPTION_PARAMETERS]
parameter_values = st.builds(
    ParameterValue, type=st.integers(0, 9), string_value=st.text(max_size=9), double_value=st.floats()
)
parameters = st.one_of(
    st.builds(parameter_message, st.sampled_from(NAMES), values),
    st.builds(ParameterMessage, name=st.sampled_from(NAMES) | st.text(max_size=9), value=parameter_values),
)


def test_random_messages_and_parameters(client: Client, node: subprocess.Popen[bytes], student: Path) -> None:
    assert bring_up(client, PERCEPTION)
    masks = client.listen("/dino/attention_mask")
    client.camera_heard()
    set_parameters = Caller(client, SetParameters, "set_parameters")

    @fuzz(300)
    @given(cdr.filter(len) | images().map(serialized_image), parameters | st.none())  # no bytes at all block Fast DDS
    def send(data: bytes, parameter: ParameterMessage | None) -> None:
        client.camera.publish(data)
        rclpy.spin_once(client, timeout_sec=0)
        if parameter is not None:
            result = set_parameters(SetParameters.Request(parameters=[parameter])).results[0]
            assert result.successful or result.reason

    send()
    no_type = ParameterMessage(name="model", value=ParameterValue(type=77))
    assert set_parameters(SetParameters.Request(parameters=[no_type]), patience=0.5) is None  # rclpy cannot read it
    for path in ("x" * 5000, "~nosuchuser/student.onnx", "/root\0"):
        result = set_parameters(SetParameters.Request(parameters=[parameter_message("model", path)])).results[0]
        assert not result.successful
    right = {row.name: row.default for row in PERCEPTION_PARAMETERS} | {"model": str(student), "backend": "onnxruntime"}
    right["reliability"] = "reliable"
    for name, value in right.items():
        result = set_parameters(SetParameters.Request(parameters=[parameter_message(name, value)])).results[0]
        assert result.successful, f"{name}: {result.reason}"
    client.send(7, image(7))
    client.wait(lambda: masks and masks[-1].header.frame_id == "camera 7", "a mask")


def test_random_transitions(client: Client, node: subprocess.Popen[bytes]) -> None:
    """Those that exist succeed, others are refused, frames keep coming, and nothing is left behind."""
    masks: list[Image] = []
    client.create_subscription(Image, "/dino/attention_mask", masks.append, 50)
    change_state = Caller(client, ChangeState, "change_state")
    random = np.random.default_rng(0)
    state, used = "unconfigured", []
    for number in range(200):
        possible = [transition for before, transition in TRANSITIONS if before == state]
        transition = int(random.choice(possible if number % 5 else [number for _, number in TRANSITIONS]))
        changed = change_state(ChangeState.Request(transition=Transition(id=transition)))
        assert changed.success is ((state, transition) in TRANSITIONS)
        state = TRANSITIONS.get((state, transition), state)
        client.send(number, image(number % 3))
        if state == "active":
            used.append(soak.resources(node))
    memory, threads = np.array(used).T
    assert len(used) > 20
    assert len({*threads[3:]}) == 1, "threads are left behind"
    assert memory[-1] - memory[len(used) // 3] < 10, "memory is left behind"  # MB
    up = [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE]
    for transition in {"unconfigured": up, "inactive": up[1:], "active": []}[state]:
        assert change_state(ChangeState.Request(transition=Transition(id=transition))).success
    client.camera_heard()
    client.send(1000, image(1))
    client.wait(lambda: masks and masks[-1].header.frame_id == "camera 1000", "a mask")


def test_soak(ros: None) -> None:
    """The benchmark for seconds instead of minutes: every frame is accounted for, and memory does not hold them."""
    measured = soak.soak("", seconds=20)
    assert measured.received == measured.masks + measured.superseded + measured.unusable
    assert measured.unusable == 0
    assert measured.superseded > measured.masks > 0
    assert measured.fewest_masks > measured.masks / len(soak.CAMERAS) / 2
    assert measured.answers
    # A camera's frame has 0.23 MB: were a hundredth of them kept, it would be several MB.
    assert measured.memory[1] - measured.memory[0] < 20
    assert measured.threads[0] == measured.threads[1]
