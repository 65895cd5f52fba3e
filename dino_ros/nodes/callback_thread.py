"""Runs one callback group in a thread of its own, whatever executor spins the node.

The subscriptions to cameras live in one: frames never wait for a slow service call, such as loading another student,
and the wait set that is rebuilt for every frame holds those few entities instead of all of the node's.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from dino_ros.nodes.rclpy_internals import ignore_signals


class ThreadCallbackGroup(MutuallyExclusiveCallbackGroup):
    """Entities that every executor skips, except the one that runs in the group's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.thread: threading.Thread | None = None

    def can_execute(self, entity: Any) -> bool:
        return threading.current_thread() is self.thread and super().can_execute(entity)


class CallbackThread:
    """Runs the callbacks of one group of a node, from `start` to `stop`."""

    def __init__(self, node: Node) -> None:
        self.group = ThreadCallbackGroup()
        self._node = node
        self._executor: _GroupExecutor | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        self._executor = _GroupExecutor(self._node, self.group)
        self.group.thread = threading.Thread(target=self._executor.run, name="callbacks", daemon=True)
        self.group.thread.start()

    def wake(self) -> None:
        """Notice entities that were added to the group or destroyed."""
        with self._lock:  # an executor that is being shut down cannot be woken
            if self._executor is not None:
                self._executor.wake()

    def stop(self) -> None:
        """End the thread once it finishes the callback in hand."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self.group.thread is not None:
            executor.stopped = True
            executor.shutdown()  # ends the wait that it may be in
            self.group.thread.join()


class _GroupExecutor(SingleThreadedExecutor):
    """Executes one callback group of a node that belongs to another executor."""

    def __init__(self, node: Node, group: ThreadCallbackGroup) -> None:
        super().__init__(context=node.context)
        ignore_signals(self)  # the node stops this thread when it ends
        self.stopped = False
        self._node = node
        self._group = group

    def get_nodes(self) -> list[Node]:
        """The node, although it was never added: a node can belong to one executor only."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        """Whether the entity is in the group and ready."""
        return entity.callback_group is self._group and super().can_execute(entity)

    def run(self) -> None:
        """Spin until `stopped`, or ROS is shut down."""
        with contextlib.suppress(ExternalShutdownException):
            while not self.stopped:
                self.spin_once()
