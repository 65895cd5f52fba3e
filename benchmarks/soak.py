"""Four cameras that together send ten times as many frames as the engine runs: does memory grow, what becomes of them?

    python benchmarks/soak.py --out runs/soak

Cameras and listener are one process, the node another, with real Fast DDS (loopback only) between them. The node's
resident memory is read twice a second; its slope is that of Theil and Sen over the last two thirds of the time. Of
every frame that reached the node it must be known what became of it. Prints a table and writes OUT/soak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.table import Table
from scipy.stats import theilslopes
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dino_ros.demo.domain import free_domain
from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.images.sources import open_source
from dino_ros.images.stamps import stamp_fields, stamp_ns
from dino_ros.nodes.diagnostics import RECEIVED, SUPERSEDED, UNUSABLE
from dino_ros.nodes.messages import rgb_message
from dino_ros.nodes.transport import loopback_profile, variables_to_set
from dino_ros.perception.perceiver import Perceiver

CAMERAS = ("front", "left", "right", "rear")
OVERLOAD = 10
"""Frames of all cameras together over those that the engine runs."""
SIZE = (240, 320)
"""Height and width of the cameras' images, RGB."""
QUIET = 20.0
"""Seconds in which everything that is on its way must arrive, once the cameras have stopped."""


@dataclass(frozen=True)
class Soak:
    """What a soak measured."""

    student: str
    backend: str
    seconds: float
    engine_rate: float
    """Images per second of the engine alone, in batches of as many as there are cameras."""
    published: int
    """Frames that the cameras sent."""
    received: int
    """Frames that reached the node; the others were lost in transport."""
    superseded: int
    """Frames that a newer one replaced while they waited."""
    unusable: int
    masks: int
    """Masks that arrived."""
    fewest_masks: int
    """Those of the camera with the fewest."""
    latency: tuple[float, float]
    """From a frame's stamp to its mask, milliseconds: median and 99th percentile."""
    memory: tuple[float, float]
    """The node's resident memory after a third of the time and at the end, MB."""
    slope: float
    """Of the resident memory, MB per minute."""
    threads: tuple[int, int]
    """The node's threads after a third of the time and at the end."""
    answers: bool
    """Whether each camera got a mask of a frame that it sent when all was over."""

    @property
    def overload(self) -> float:
        """Frames sent over those that the engine runs."""
        return self.published / self.seconds / self.engine_rate


class Cameras(Node):
    """The cameras, and the listener to their masks and to the node's diagnostics."""

    def __init__(self) -> None:
        super().__init__("soak")
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.cameras = {name: self.create_publisher(Image, f"/dino/{name}/image", best_effort) for name in CAMERAS}
        self.masks: dict[str, list[int]] = {name: [] for name in CAMERAS}
        """Stamps of the masks that arrived, ns."""
        self.latencies: list[float] = []
        self.counts: dict[str, dict[str, int]] = {}
        """What the node last said of each camera's frames."""
        for name in CAMERAS:
            self.create_subscription(
                Image, f"/dino/{name}/attention_mask", lambda message, name=name: self._hear(name, message), 100
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._read, 10)

    def _hear(self, name: str, message: Image) -> None:
        self.masks[name].append(stamp_ns(message))
        self.latencies.append((time.time_ns() - stamp_ns(message)) / 1e6)

    def _read(self, array: DiagnosticArray) -> None:
        for status in array.status:
            values = {pair.key: pair.value for pair in status.values}
            name = status.name.rpartition(" ")[2]
            if name in CAMERAS:
                self.counts[name] = {key: int(values[key]) for key in (RECEIVED, SUPERSEDED, UNUSABLE)}

    def publish(self, name: str, message: Image) -> int:
        """Publish a frame as taken now; returns its stamp."""
        message.header.stamp = Time(**stamp_fields(time.time_ns()))
        self.cameras[name].publish(message)
        return stamp_ns(message)

    def total(self, key: str) -> int:
        """A count of the node's over all cameras."""
        return sum(counts[key] for counts in list(self.counts.values()))

    def answered(self, name: str, message: Image) -> bool:
        """Whether a camera gets a mask of a frame that it sends now; one that is lost in transport is sent again."""
        sent: set[int] = set()

        def ask() -> bool:
            sent.add(self.publish(name, message))
            time.sleep(0.5)
            return bool(sent & set(self.masks[name]))

        return until(ask)

    def settled(self) -> bool:
        """Whether it is known of every frame that reached the node what became of it."""
        known = sum(map(len, self.masks.values())) + self.total(SUPERSEDED) + self.total(UNUSABLE)
        return len(self.counts) == len(CAMERAS) and self.total(RECEIVED) == known


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Serve a node in a thread."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()


def soak(student: str, seconds: float) -> Soak:
    """Run the node with a student (a path or a bundled one's name) under load; ROS must be initialized."""
    perceiver = Perceiver.load(student, largest_batch=len(CAMERAS))
    rate = engine_rate(perceiver)
    frames = [cv2.resize(frame.rgb(), SIZE[::-1]).astype(np.uint8) for frame in list(open_source(TABLE, TOPIC))[::60]]
    messages = [rgb_message(frame, Header()) for frame in frames]
    node = Cameras()
    samples: list[tuple[float, float, int]] = []
    published = 0
    with running("perception_node", {"model": str(perceiver.path), "cameras": CAMERAS}, ()) as process:
        bring_up(node, "/dino/perception")
        with spinning(node):
            until(lambda: all(camera.get_subscription_count() for camera in node.cameras.values()))
            begin = time.monotonic()
            while (now := time.monotonic() - begin) < seconds:
                for name in CAMERAS:
                    node.publish(name, messages[published % len(messages)])
                    published += 1
                if now >= len(samples) / 2:
                    samples.append((now / 60, *resources(process)))
                time.sleep(max(begin + published / (OVERLOAD * rate) - time.monotonic(), 0))
            took = time.monotonic() - begin
            node.counts.clear()  # what was said while frames came is not the last word
            until(node.settled)
            result = {key: node.total(key) for key in (RECEIVED, SUPERSEDED, UNUSABLE)}
            masks, latencies = [len(stamps) for stamps in node.masks.values()], node.latencies[:]
            answers = all(node.answered(name, messages[0]) for name in CAMERAS)
    node.destroy_node()
    steady = np.array(samples[len(samples) // 3 :])
    return Soak(
        student=perceiver.path.stem,
        backend=perceiver.backend.description,
        seconds=took,
        engine_rate=rate,
        published=published,
        received=result[RECEIVED],
        superseded=result[SUPERSEDED],
        unusable=result[UNUSABLE],
        masks=sum(masks),
        fewest_masks=min(masks),
        latency=(float(np.median(latencies)), float(np.percentile(latencies, 99))),
        memory=(float(steady[0, 1]), float(steady[-1, 1])),
        slope=float(theilslopes(steady[:, 1], steady[:, 0]).slope),
        threads=(int(steady[0, 2]), int(steady[-1, 2])),
        answers=answers,
    )


def engine_rate(perceiver: Perceiver) -> float:
    """Images per second of the engine alone, in batches of a frame of each camera, for what the masks need."""
    outputs = sorted(perceiver.request(["mask"]).student_outputs)
    batch = [np.zeros((perceiver.info.height, perceiver.info.width, 3), np.uint8)] * len(CAMERAS)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        perceiver.infer(batch, outputs)
        times.append(time.perf_counter() - start)
    return len(CAMERAS) / float(np.median(times))


def resources(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """Resident memory in MB and threads of a process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    values = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()}
    return int(values["VmRSS"]) / 1e3, int(values["Threads"])


def until(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within QUIET seconds."""
    deadline = time.monotonic() + QUIET
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def table(measured: Soak) -> Table:
    """The numbers, a row each."""
    share = {
        "lost in transport": measured.published - measured.received,
        "superseded": measured.superseded,
        "unusable": measured.unusable,
        "made masks of": measured.masks,
        "unknown": measured.received - measured.superseded - measured.unusable - measured.masks,
    }
    rows = [
        ("student, engine", f"{measured.student}, {measured.backend}"),
        ("time", f"{measured.seconds:.0f} s"),
        ("engine alone", f"{measured.engine_rate:.1f} images/s"),
        ("frames sent", f"{measured.published}, {measured.overload:.1f} times the engine's"),
        *((f"frames {name}", f"{count} ({count / measured.published:.1%})") for name, count in share.items()),
        ("masks of the camera with the fewest", f"{measured.fewest_masks}"),
        ("latency p50, p99", f"{measured.latency[0]:.0f} ms, {measured.latency[1]:.0f} ms"),
        ("resident memory", f"{measured.memory[0]:.1f} MB after a third, {measured.memory[1]:.1f} MB at the end"),
        ("its slope", f"{measured.slope:+.2f} MB per minute"),
        ("threads", f"{measured.threads[0]}, {measured.threads[1]}"),
        ("a last frame of each camera", "a mask each" if measured.answers else "not all answered"),
    ]
    shown = Table("what", "measured")
    for name, value in rows:
        shown.add_row(name, value)
    return shown


def main() -> None:
    """Soak a student, print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", default="", help="student file, or the name of a bundled student")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.update(dict.fromkeys(variables_to_set(), str(loopback_profile())))
    with free_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        rclpy.init()
        measured = soak(options.student, options.seconds)
        rclpy.shutdown()
    Console(width=140).print(table(measured))
    (options.out / "soak.json").write_text(json.dumps(asdict(measured), indent=2))


if __name__ == "__main__":
    main()
