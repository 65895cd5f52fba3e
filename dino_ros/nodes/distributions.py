"""Where the distributions of ROS 2 differ, from Humble on: here and nowhere else. docs/ros_versions.md has the list."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import PublisherEventCallbacks, QoSMessageLostInfo, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, QoSMessageLostInfo, SubscriptionEventCallbacks

__all__ = [
    "QoSMessageLostInfo",
    "SubscriptionEventCallbacks",
    "after_parameters_are_set",
    "publisher_events",
    "with_message_info",
]

TELLS_MESSAGE_INFO = hasattr(Subscription, "CallbackType")
"""Whether callbacks of subscriptions may take a second argument; not in Humble."""


def publisher_events(
    matched: Callable[[Any], object], incompatible_qos: Callable[[Any], object]
) -> PublisherEventCallbacks:
    """What a publisher calls when a subscription comes or goes, and when one does not fit.

    Humble has no event for the first, so there `matched` is never called: look at the publisher from time to time.
    """
    events: dict[str, Any] = {"matched": matched, "incompatible_qos": incompatible_qos}
    known = inspect.signature(PublisherEventCallbacks).parameters
    return PublisherEventCallbacks(**{name: callback for name, callback in events.items() if name in known})


def after_parameters_are_set(node: Node, take: Callable[[list[Parameter]], None]) -> None:
    """Call `take` with the parameters that were set, each time the node has taken new values."""
    if hasattr(node, "add_post_set_parameters_callback"):
        node.add_post_set_parameters_callback(take)
        return
    internals: Any = node  # Humble only asks before it sets them
    set_atomically = internals._set_parameters_atomically

    def set_and_take(parameters: list[Parameter], *arguments: Any, **options: Any) -> Any:
        result = set_atomically(parameters, *arguments, **options)
        if result.successful:
            take(parameters)
        return result

    internals._set_parameters_atomically = set_and_take


def with_message_info(take: Callable[[Any, dict[str, Any]], object]) -> Callable[..., object]:
    """A subscription's callback that calls `take` with the message and what is known of its way.

    That is `source_timestamp` and `received_timestamp`, nanoseconds of the system clock, and
    `publication_sequence_number`, which counts the publisher's messages from 1, or is None. Humble tells nothing of it:
    there both times are that of the call, and no message has a number.
    """
    if TELLS_MESSAGE_INFO:
        return take

    def arrived(message: Any) -> None:
        now = time.time_ns()
        take(message, {"source_timestamp": now, "received_timestamp": now, "publication_sequence_number": None})

    return arrived
