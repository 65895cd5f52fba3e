"""A node as a process: from its command line to its exit code, and what ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dino_ros.errors import UserError
from dino_ros.nodes.rclpy_internals import RCLError, leave_network

PATIENCE = 1.0
"""Seconds that the work may take to end; loading a student cannot be interrupted, and may take minutes."""
_served: list[Node] = []
"""The nodes of this process that were served."""


def run(name: str, work: Callable[[], None]) -> None:
    """Initialize ROS with the command line, do the `work` of the node `name`, and end the process.

    SIGINT and SIGTERM, once or often, at any moment, shut ROS down, which ends the work; the exit code is then 0. Bad
    input (UserError) and arguments that ROS cannot read are logged as one sentence, with the exit code 2.

    Work that cannot be interrupted is not waited for longer than PATIENCE. Its node leaves the network first: others
    would see a process that just ends for 20 s more.

    The work is done in a thread, so that Python can handle signals in the main one: rclpy's own handling raises
    KeyboardInterrupt wherever the node happens to be, also while it is ending.
    """
    ended: SimpleQueue[None] = SimpleQueue()  # a handler may run within any call, and within another: its `put` may too
    interrupted = False
    exit_code = 0

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        ended.put(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)

    def body() -> None:
        nonlocal exit_code
        try:
            initialize()
            work()
        except UserError as error:
            rclpy.logging.get_logger(name).error(str(error))
            exit_code = 2
        except ExternalShutdownException:
            pass
        except Exception:
            if not interrupted:  # else it was interrupted anywhere, such as while it made a publisher
                traceback.print_exc()
                exit_code = 1
        finally:
            ended.put(None)

    # What OpenCV has to say about a broken image is said by the node.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    threading.Thread(target=body, name=name).start()
    ended.get()
    deadline = time.monotonic() + PATIENCE
    while (working := unfinished()) and time.monotonic() < deadline:
        rclpy.try_shutdown()  # again and again: ROS may be just starting
        working[0].join(timeout=0.05)
    if working:
        for node in _served:
            leave_network(node)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Python gives up its own handlers while it ends
    rclpy.try_shutdown()
    sys.exit(exit_code)


def serve(node: Node, spin: Callable[[], None]) -> None:
    """Spin a node, by `spin`.

    rclpy raises out of it what it meets while it serves a request: a client that has gone, a parameter whose type is no
    type. That is logged and does not end the node; ExternalShutdownException is raised.
    """
    if node not in _served:
        _served.append(node)
    try:
        spin()
    except ExternalShutdownException:
        raise
    except Exception as error:
        if rclpy.ok():
            node.get_logger().error(
                f"A request could not be served ({type(error).__name__}: {error}); the node goes on."
            )


def unfinished() -> list[threading.Thread]:
    """The threads for which Python would wait before the process ends: the work's, and those of its executor."""
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]


def initialize() -> None:
    """Initialize ROS with the command line. Raises UserError for arguments or parameter files that it cannot read."""
    try:
        rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    except RCLError as error:
        reason = str(error).removeprefix("failed to initialize rcl: ").partition(", at ")[0]
        raise UserError(f"ROS cannot read the node's arguments ({reason}): correct them, or the file.") from error
