"""Bring a lifecycle node up from another process, as the launch file does."""

from __future__ import annotations

import time

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.task import Future

from dino_ros.errors import UserError

GOALS = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
    Transition.TRANSITION_INACTIVE_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
    Transition.TRANSITION_ACTIVE_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}
"""The state that each transition leads to where it succeeds."""
PATIENCE = 2.0
"""Seconds without an answer after which the node is asked for its state. On a busy machine Fast DDS drops answers
that are ready before the asking side has been discovered."""


def change_state(node: Node, target: str, transition: int, timeout: float = 60.0) -> bool:
    """Request a transition, one of GOALS, of the lifecycle node named `target` in full; returns whether it succeeded.

    Raises UserError if the node does not answer within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    change = node.create_client(ChangeState, f"{target}/change_state")
    get = node.create_client(GetState, f"{target}/get_state")
    try:
        if change.wait_for_service(timeout_sec=timeout):
            changed = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            while True:
                _spin(node, changed, deadline)
                if changed.done():
                    return bool(changed.result().success)
                if time.monotonic() > deadline:
                    break
                # The node serves one request at a time: when it answers this one, the transition has ended.
                state = get.call_async(GetState.Request())
                _spin(node, state, deadline)
                if state.done() and not changed.done():
                    return bool(state.result().current_state.id == GOALS[transition])
        raise UserError(f"The node {target} did not answer within {timeout:.0f} s: see its log above.")
    finally:
        node.destroy_client(change)
        node.destroy_client(get)


def _spin(node: Node, future: Future, deadline: float) -> None:
    """Spin until the future is done, for PATIENCE seconds at most and not beyond the deadline."""
    left = max(deadline - time.monotonic(), 0.0)
    rclpy.spin_until_future_complete(node, future, timeout_sec=min(left, PATIENCE))


def bring_up(node: Node, target: str) -> bool:
    """Configure and activate the lifecycle node with the full name `target`; returns whether both succeeded."""
    steps = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    return all(change_state(node, target, step) for step in steps)
