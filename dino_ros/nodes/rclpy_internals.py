"""What the nodes take from inside rclpy, here and nowhere else: Jazzy has no public name for it.

`rclpy.exceptions` re-exports other exceptions of the C++ binding but not RCLError, and its base class RuntimeError is
too wide to catch around callbacks. An Executor has no option to stay out of signal handling. A lifecycle node has none
to answer what it cannot do, and keeps its handle when it is destroyed. All are the same in rclpy 7.1 (Jazzy) and 9.1
(Kilted), with which the tests of the nodes were run.
"""

from __future__ import annotations

from typing import Any

from rclpy.executors import Executor
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation

RCLError: type[Exception] = rclpy_implementation.RCLError
"""Raised by a call into ROS that fails, such as publishing after ROS was shut down."""


def ignore_signals(executor: Executor) -> None:
    """Take an executor that was just made off the list of those that rclpy wakes on SIGINT and SIGTERM.

    rclpy crashes if an executor on that list is destroyed while the signal is being handled, so one that comes and goes
    while the node runs must not be on it.
    """
    internals: Any = executor
    internals._sigint_gc.destroy()
    internals._sigint_gc = GuardCondition(callback=None, callback_group=None, context=executor.context)


def answer_impossible_transitions(node: Any) -> None:
    """Make a lifecycle node refuse a transition that its state does not have, as rclcpp and later releases of rclpy do.

    Jazzy's rclpy gives no answer, and raises out of the executor.
    """
    service = node._service_change_state
    change = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except RCLError:  # of the state machine: what the transition itself raises is caught
            wanted = request.transition.label or request.transition.id
            node.get_logger().warning(
                f"There is no transition {wanted} from the state {node._state_machine.current_state[1]}: "
                f"`ros2 lifecycle list {node.get_fully_qualified_name()}` shows those that there are."
            )
            response.success = False
            return response

    service.callback = answer


def leave_network(node: Any) -> None:
    """Destroy a node of any kind, and with the last one this process's DDS participant; its callbacks may still run.

    Only to be called right before the process ends: a callback that comes back finds nothing that works.
    """
    if hasattr(node, "_state_machine"):
        node._state_machine.destroy_when_not_in_use()
    node.destroy_node()
