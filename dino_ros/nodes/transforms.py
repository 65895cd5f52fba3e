"""From a camera's frame to one that the user names, through TF."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.time import Time

from dino_ros.depth.boxes import rotation
from dino_ros.errors import UserError

PATIENCE = 0.1
"""Seconds that a transform may come later than the masks, which are late themselves."""


class Transforms:
    """Transforms to the frame `target`, from /tf and /tf_static, which are subscribed to from `start` to `stop`.

    Raises UserError if tf2_ros is not installed.
    """

    def __init__(self, node: Any, target: str) -> None:
        if importlib.util.find_spec("tf2_ros") is None:
            raise UserError(
                "target_frame needs tf2_ros, which is not installed: `apt install ros-$ROS_DISTRO-tf2-ros-py`, or "
                "leave target_frame empty for the camera's frame."
            )
        self._tf2: Any = importlib.import_module("tf2_ros")
        self._node = node
        self.target = target
        self._buffer = self._tf2.Buffer()
        self._listener: Any = None
        self._clock_watch: Any = None

    def start(self) -> None:
        """Listen."""
        if self._listener is None:
            self._listener = self._tf2.TransformListener(self._buffer, self._node)
            # A recording that starts over with its clock: what TF knows is then of the future.
            back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1))
            self._clock_watch = self._node.get_clock().create_jump_callback(
                back, post_callback=lambda jump: self._buffer.clear()
            )

    def stop(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.unregister()
            self._clock_watch.unregister()
            self._listener = None

    def __call__(self, frame: str, stamp: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation [3, 3] and translation [3] that take points of a frame, at that time in nanoseconds, to the target.

        Waits for them for up to PATIENCE seconds. Raises UserError if TF does not know them.
        """
        try:
            at = Time(nanoseconds=stamp)
            found = self._buffer.lookup_transform(self.target, frame, at, timeout=Duration(seconds=PATIENCE))
        except self._tf2.TransformException as error:
            raise UserError(
                f"There is no transform from {frame!r} to target_frame {self.target!r} ({str(error).rstrip('.')}): "
                "publish one on /tf, or correct target_frame."
            ) from error
        turn, shift = found.transform.rotation, found.transform.translation
        return rotation(turn.x, turn.y, turn.z, turn.w), np.array([shift.x, shift.y, shift.z])
