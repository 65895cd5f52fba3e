"""Whether this Python finds a ROS that the nodes can run with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

from dino_ros.errors import UserError

NEEDED = ("sensor_msgs.msg", "diagnostic_msgs.msg", "lifecycle_msgs.srv", "rcl_interfaces.msg", "std_msgs.msg")
"""Modules of messages that the nodes import beside rclpy."""
NAME_OF_MIDDLEWARE = "from rclpy.utilities import get_rmw_implementation_identifier as name; print(name())"


def middleware() -> str:
    """Name of the middleware that ROS uses, such as rmw_fastrtps_cpp. Raises UserError where it cannot be loaded.

    Another process loads it: ROS ends the one in which it does not find what RMW_IMPLEMENTATION names.
    """
    done = subprocess.run([sys.executable, "-c", NAME_OF_MIDDLEWARE], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it gives no reason"]
        raise UserError(
            f"rclpy cannot be loaded by Python {platform.python_version()} ({lines[-1].strip().rstrip('.')}): source "
            "ROS's setup.bash and use the Python that it was built for, or run `pip install 'dino_ros[ros]'`; install "
            "what RMW_IMPLEMENTATION names."
        )
    return done.stdout.split()[-1]


def describe_ros(middleware: str) -> str:
    """What was found, in one line. Raises UserError if messages that the nodes need are missing."""
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            package = name.partition(".")[0]
            raise UserError(
                f"{package} cannot be loaded ({error}): install ros-$ROS_DISTRO-{package.replace('_', '-')}."
            ) from error
    detections = "" if find_spec("vision_msgs") else "; without vision_msgs no detections are published"
    distribution = os.environ.get("ROS_DISTRO") or "from PyPI"
    return f"{distribution}, {middleware}, Python {platform.python_version()}{detections}"
