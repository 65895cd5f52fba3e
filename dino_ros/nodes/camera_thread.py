"""A thread for the cameras' callbacks alone, beside whatever executor spins the node.

Frames then never wait for a service that takes long, such as loading another student, and the wait set that is built
for each of them holds the cameras' few entities instead of all of the node's.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.guard_condition import GuardCondition
from rclpy.node import Node


class ThreadCallbackGroup(MutuallyExclusiveCallbackGroup):
    """Entities that every executor passes over, except the one that runs in the group's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.thread: threading.Thread | None = None

    def can_execute(self, entity: Any) -> bool:
        """Whether the calling executor may take the entity."""
        return threading.current_thread() is self.thread and super().can_execute(entity)


class CameraThread:
    """Runs the callbacks of one group of a node, from `start` to `stop`."""

    def __init__(self, node: Node) -> None:
        self.group = ThreadCallbackGroup()
        self._node = node
        self._executor: _GroupExecutor | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread."""
        self._executor = _GroupExecutor(self._node, self.group)
        self.group.thread = threading.Thread(target=self._executor.run, name="cameras", daemon=True)
        self.group.thread.start()

    def wake(self) -> None:
        """Take notice of entities that were added to the group or destroyed."""
        with self._lock:  # an executor that is being shut down cannot be woken
            if self._executor is not None:
                self._executor.wake()

    def stop(self) -> None:
        """End the thread, after the callback it is busy with."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self.group.thread is not None:
            executor.stopped = True
            executor.shutdown()  # which ends the wait that it may be in
            self.group.thread.join()


class _GroupExecutor(SingleThreadedExecutor):
    """Executes one callback group of a node that belongs to another executor."""

    def __init__(self, node: Node, group: ThreadCallbackGroup) -> None:
        super().__init__(context=node.context)
        # On a signal rclpy triggers every executor's guard condition for signals, and crashes if one goes meanwhile.
        # Ours is none of them: a node that ends stops this thread by itself.
        unused: GuardCondition = self._sigint_gc  # type: ignore[has-type]
        unused.destroy()
        self._sigint_gc = GuardCondition(callback=None, callback_group=None, context=node.context)
        self.stopped = False
        self._node = node
        self._group = group

    def get_nodes(self) -> list[Node]:
        """The node, which was not added: a node has one executor, and ours is an addition to it."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        """Whether the entity is of the group, and ready."""
        return entity.callback_group is self._group and super().can_execute(entity)

    def run(self) -> None:
        """Spin until `stopped`, or ROS is shut down."""
        with contextlib.suppress(ExternalShutdownException):
            while not self.stopped:
                self.spin_once()
