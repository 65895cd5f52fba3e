"""Drive a lifecycle node of another process, as the launch file does."""

from __future__ import annotations

import time

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from dino_ros.errors import UserError


def change_state(node: Node, target: str, transition: int, timeout: float = 60.0) -> bool:
    """Request a transition of the lifecycle node with the full name `target`; returns whether it succeeded.

    Raises UserError if the node does not answer within `timeout` seconds.
    """
    client = node.create_client(ChangeState, f"{target}/change_state")
    deadline = time.monotonic() + timeout
    try:
        future = None
        if client.wait_for_service(timeout_sec=timeout):
            future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            rclpy.spin_until_future_complete(node, future, timeout_sec=deadline - time.monotonic())
        if future is None or not future.done():
            raise UserError(f"The node {target} did not answer within {timeout:.0f} s: see its log above.")
        return bool(future.result().success)
    finally:
        node.destroy_client(client)


def bring_up(node: Node, target: str) -> bool:
    """Configure and activate the lifecycle node with the full name `target`; returns whether both succeeded."""
    steps = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    return all(change_state(node, target, step) for step in steps)
