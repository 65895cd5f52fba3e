"""Transitions requested from another process, some of whose answers are lost on the way."""

import threading
from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip("rclpy")

import contextlib

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from dino_ros.demo.lifecycle import change_state
from dino_ros.errors import UserError


class ForgetfulNode(Node):
    """Makes transitions, or refuses them, and never answers that it has."""

    def __init__(self) -> None:
        super().__init__("forgetful")
        self.state = State.PRIMARY_STATE_UNCONFIGURED
        self.willing = True
        service = self.create_service(ChangeState, "~/change_state", self._change)
        service.send_response = lambda response, header: None
        self.create_service(GetState, "~/get_state", self._get)

    def _change(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        if self.willing:
            self.state = State.PRIMARY_STATE_INACTIVE
        return response

    def _get(self, request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.id = self.state
        return response


@pytest.fixture
def forgetful(ros: None) -> Iterator[ForgetfulNode]:
    node = ForgetfulNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.destroy_node()


@pytest.mark.parametrize("willing", [True, False])
def test_a_lost_answer_is_replaced_by_the_state(forgetful: ForgetfulNode, willing: bool) -> None:
    forgetful.willing = willing
    client = rclpy.create_node("client")
    assert change_state(client, "/forgetful", Transition.TRANSITION_CONFIGURE) is willing
    client.destroy_node()


def test_a_node_that_is_not_there_is_named(ros: None) -> None:
    client = rclpy.create_node("client")
    with pytest.raises(UserError, match="/nobody"):
        change_state(client, "/nobody", Transition.TRANSITION_CONFIGURE, timeout=0.5)
    client.destroy_node()
