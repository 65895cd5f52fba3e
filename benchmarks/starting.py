"""From the start of the perception node to its first mask, and of commands: seconds, and how many of CPU time.

    python benchmarks/starting.py

The bundled student on a VGA camera at 30 Hz that runs already; the verdict of the parity gate is in the user's cache.
Starts of the node, brought up as the launch file does it, take turns with a process that only imports rclpy, OpenCV and
NumPy, which every node in Python on images does, with one that imports dino_ros, with `dino-train --help`, and, where
launch is installed and the package built, with starts by `ros2 launch`. On a busy machine compare CPU seconds. Prints
medians, and the steps of the node's start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from measuring import Results, machine
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from dino_ros.demo.domain import free_domain
from dino_ros.demo.lifecycle import change_state
from dino_ros.nodes.transport import loopback_profile, variables_to_set

IMPORTS = [sys.executable, "-c", "import cv2, numpy, rclpy.executors, rclpy.lifecycle, sensor_msgs.msg"]
LIBRARY = [sys.executable, "-c", "import dino_ros"]
HELP = [sys.executable, "-m", "dino_train", "--help"]
NODE = [sys.executable, "-m", "dino_ros.nodes.perception_node"]
LAUNCH = ["ros2", "launch", "dino_ros", "perception.launch.py"]
LAUNCH_IMPORTS = ["ros2", "launch", "--help"]
STEPS = {"configured": 1, "activated": 3}
"""Transitions by the state that follows."""
Seconds = dict[str, float]


class Camera(Node):
    """Publishes frames, and notes the first mask."""

    def __init__(self) -> None:
        super().__init__("camera")
        pixels = np.random.default_rng(0).integers(0, 256, 480 * 640 * 3, np.uint8).tobytes()
        self._frame = Image(height=480, width=640, encoding="rgb8", step=640 * 3, data=pixels)
        self._camera = self.create_publisher(Image, "/dino/image", qos_profile_sensor_data)
        self.create_timer(1 / 30, lambda: self._camera.publish(self._frame))
        self.create_subscription(Image, "/dino/attention_mask", self._see, 1)
        self.seen = 0.0

    def _see(self, mask: Image) -> None:
        self.seen = self.seen or time.monotonic()

    def first_mask(self, command: list[str], bring_up: bool) -> Seconds:
        """Start a command, and end it after the first mask; returns what each step took."""
        start, self.seen = time.monotonic(), 0.0
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        took: Seconds = {}
        try:
            for step, transition in STEPS.items() if bring_up else ():
                change_state(self, "/dino/perception", transition)
                took[step] = time.monotonic() - start
            while not self.seen:
                if process.poll() is not None or time.monotonic() > start + 120:
                    raise RuntimeError(f"{' '.join(command)} made no mask")
                rclpy.spin_once(self, timeout_sec=0.1)
            took |= {"first mask": self.seen - start, "CPU": cpu_seconds(process.pid)}
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=30)
        while self.count_publishers("/dino/attention_mask"):  # until it has left the network
            rclpy.spin_once(self, timeout_sec=0.1)
        return took


def cpu_seconds(session: int) -> float:
    """User and system time so far of the processes of a session."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def to_the_end(command: list[str]) -> Seconds:
    """Run a command; returns what it took."""
    start, before = time.monotonic(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"end": time.monotonic() - start, "CPU": cpu}


def main() -> None:
    """Start each in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs/starting"))
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(variables_to_set(), str(loopback_profile())))
    with free_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        rclpy.init()
        camera = Camera()
        starts: dict[str, Callable[[], Seconds]] = {
            "imports of any node": lambda: to_the_end(IMPORTS),
            "import dino_ros": lambda: to_the_end(LIBRARY),
            "dino-train --help": lambda: to_the_end(HELP),
            "node": lambda: camera.first_mask(NODE, bring_up=True),
        }
        if shutil.which("ros2") and not subprocess.run([*LAUNCH, "--show-args"], capture_output=True).returncode:
            starts["imports of launch"] = lambda: to_the_end(LAUNCH_IMPORTS)
            starts["ros2 launch"] = lambda: camera.first_mask(LAUNCH, bring_up=False)
        starts["node"]()  # the parity gate, and the files' first reading
        took: dict[str, list[Seconds]] = defaultdict(list)
        for _ in range(options.turns):
            for name, run in starts.items():
                took[name].append(run())
        rclpy.shutdown()
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "starting.json")
    results.add("machine", "machine", [machine()])
    rows = (
        {"of": name, "step": step, "seconds": statistics.median(turn[step] for turn in turns)}
        for name, turns in took.items()
        for step in turns[0]
    )
    results.add("starting", "from the start", rows)


if __name__ == "__main__":
    main()
