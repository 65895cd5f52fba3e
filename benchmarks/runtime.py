"""The perception node against its bare engine, the node people write today, and a node for each camera.

    python benchmarks/runtime.py --out runs/runtime

Everything is real: camera and listener are one process, the node another, Fast DDS with the shipped profile (held to
the loopback) between them. The students have random weights, the pictures are the demo's, scaled. Every number is
beside its baseline of the same run. Prints tables and writes OUT/runtime.json. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from students import random_student

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.masks.parameters import ATTENTION, MaskParameters
from dino_ros.messages import jpeg_message, rgb_message
from dino_ros.perceiver import Perceiver
from dino_ros.sources import open_source
from dino_ros.transport import PROFILE_VARIABLES, loopback_profile

SIZES = {"VGA": (480, 640), "720p": (720, 1280)}
MASKS = {"attention": ATTENTION, "default": MaskParameters()}
"""The paper's mask as it is, which costs next to nothing, and what the node makes without being told."""
WARM_UP = 15
"""Frames before the measured ones."""
TURN = 50
"""Frames in a row of node and engine, where they take turns."""


class Bench(Node):
    """Cameras and listener; keeps the latency of every mask by camera."""

    def __init__(self, cameras: Sequence[str] = ("",), kind: type = Image) -> None:
        super().__init__("bench")
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        suffix = "/compressed" if kind is CompressedImage else ""
        self.cameras: dict[str, Publisher] = {}
        self.latencies: dict[str, list[float]] = {name: [] for name in cameras}
        for name in cameras:
            prefix = f"/dino/{name}/" if name else "/dino/"
            self.cameras[name] = self.create_publisher(kind, f"{prefix}image{suffix}", best_effort)
            self.create_subscription(Image, f"{prefix}attention_mask", self._listener(name), 5)

    def _listener(self, name: str) -> Any:
        def hear(message: Image) -> None:
            stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            self.latencies[name].append((time.time_ns() - stamp) / 1e6)

        return hear

    def heard(self) -> None:
        """Wait until a node listens to every camera."""
        deadline = time.monotonic() + 60
        while not all(camera.get_subscription_count() for camera in self.cameras.values()):
            if time.monotonic() > deadline:
                raise RuntimeError("no node subscribed to the cameras")
            rclpy.spin_once(self, timeout_sec=0.05)

    def play(self, messages: Sequence[Any], frames: int, rate: float) -> float:
        """Publish on every camera at a rate, then wait for what is under way; returns the seconds it took."""
        start = time.monotonic()
        for number in range(frames):
            for publisher in self.cameras.values():
                message = messages[number % len(messages)]
                stamp = message.header.stamp
                stamp.sec, stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
                publisher.publish(message)
            self.spin_until(start + (number + 1) / rate)
        seconds = time.monotonic() - start
        self.spin_until(time.monotonic() + 0.5)
        return seconds

    def spin_until(self, moment: float) -> None:
        """Receive until a time of time.monotonic()."""
        while (left := moment - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def clear(self) -> None:
        """Forget the latencies so far."""
        for latencies in self.latencies.values():
            latencies.clear()


def pictures(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Ten of the demo's frames at a size."""
    frames = list(open_source(TABLE, TOPIC))[::30]
    return [cv2.resize(frame.rgb(), (width, height)).astype(np.uint8) for frame in frames]


class BareEngine:
    """The engine alone, one picture at a time, for what a mask with these parameters needs."""

    def __init__(self, student: Path, mask: MaskParameters) -> None:
        perceiver = Perceiver.load(student)
        self._backend = perceiver.backend
        self._needed = perceiver.needs(["mask"], mask.resolve(perceiver.info))
        self._batch = np.stack([perceiver.prepare(pictures(*SIZES["VGA"])[0])])
        self.run(WARM_UP)

    def run(self, runs: int, rate: float = math.inf) -> list[float]:
        """Milliseconds of each run, at a rate in Hz or without a pause."""
        times = []
        begin = time.monotonic()
        for number in range(runs):
            time.sleep(max(begin + number / rate - time.monotonic(), 0))
            start = time.perf_counter()
            self._backend(self._batch, self._needed)
            times.append((time.perf_counter() - start) * 1e3)
        return times


def latency(student: Path, runs: int, masks: str) -> list[dict[str, Any]]:
    """From camera to mask, over the bare engine, for every size and transport, at half the engine's rate.

    Node and engine take turns, TURN frames each, so that a machine that slows down slows both.
    """
    parameters = MASKS[masks]
    engine = BareEngine(student, parameters)
    rate = 500 / float(np.median(engine.run(TURN)))
    rows = []
    for transport, kind in (("raw", Image), ("compressed", CompressedImage)):
        for size, shape in SIZES.items():
            make = rgb_message if kind is Image else jpeg_message
            messages = [make(picture, Header()) for picture in pictures(*shape)]
            bench = Bench(kind=kind)
            without_pause: list[float] = []
            bare: list[float] = []
            asked = {"model": str(student), "image_transport": transport, **as_node_parameters(parameters)}
            with running("perception_node", asked, ()):
                bring_up(bench, "/dino/perception")
                bench.heard()
                bench.play(messages, WARM_UP, rate)
                bench.clear()
                for _ in range(runs // TURN):
                    without_pause += engine.run(TURN)
                    bare += engine.run(TURN, rate)
                    bench.play(messages, TURN, rate)
            got = np.array(bench.latencies[""])
            bench.destroy_node()
            p50, p99 = np.percentile(got, (50, 99))
            bare50, bare99 = np.percentile(bare, (50, 99))
            rows.append(
                {
                    "student": student.stem,
                    "mask": masks,
                    "frames": f"{size} {transport}",
                    "masks": len(got),
                    "of": runs // TURN * TURN,
                }
                | {"without pause p50": float(np.median(without_pause)), "engine p50": bare50, "engine p99": bare99}
                | {"p50": p50, "p99": p99, "p50 ratio": p50 / bare50, "p99 ratio": p99 / bare50}
            )
    return rows


@contextlib.contextmanager
def plain(shape: str) -> Iterator[None]:
    """Run the plain node."""
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("plain_node.py")), shape])
    try:
        yield
    finally:
        process.send_signal(2)
        process.wait(timeout=20)


def rate_of(bench: Bench, shape: tuple[int, int], seconds: float, rate: float) -> dict[str, float]:
    """Masks per second, and their latency, with cameras at a rate."""
    messages = [rgb_message(picture, Header()) for picture in pictures(*shape)]
    bench.heard()
    bench.play(messages, WARM_UP * 2, rate)
    bench.clear()
    took = bench.play(messages, round(seconds * rate), rate)
    counts = [len(latencies) for latencies in bench.latencies.values()]
    every = [value for latencies in bench.latencies.values() for value in latencies]
    return {"fps": sum(counts) / took, "slowest camera": min(counts) / took, "p50": float(np.median(every))}


def throughput(name: str, student: Path, shape: str, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Frames per second of the plain node and of ours with each of MASKS, one VGA camera that none keeps up with.

    The plain node makes the mask of "attention".
    """
    bench = Bench()
    with plain(shape):
        found = {"plain (torch eager)": rate_of(bench, SIZES["VGA"], seconds, rate)}
    bench.destroy_node()
    for masks, parameters in MASKS.items():
        bench = Bench()
        with running("perception_node", {"model": str(student), **as_node_parameters(parameters)}, ()):
            bring_up(bench, "/dino/perception")
            found[f"dino_ros, {name}, {masks}"] = rate_of(bench, SIZES["VGA"], seconds, rate)
        bench.destroy_node()
    plain_rate = found["plain (torch eager)"]["fps"]
    return [
        {"camera": f"{rate:.0f} Hz", "node": node, **row, "ratio": row["fps"] / plain_rate}
        for node, row in found.items()
    ]


def as_node_parameters(parameters: MaskParameters) -> dict[str, Any]:
    """Mask parameters as the node names them."""
    return {f"mask_{name}": value for name, value in dataclasses.asdict(parameters).items()}


def memory(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """Proportional set size of some processes, MB."""
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1e3


def several_cameras(student: Path, count: int, seconds: float) -> list[dict[str, Any]]:
    """One node with several VGA cameras at 15 Hz against a node for each."""
    names = [f"camera{number}" for number in range(count)]
    rows: list[dict[str, Any]] = []
    bench = Bench(names)
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in names:
            remap = (f"__ns:=/dino/{name}",)
            nodes.append(stack.enter_context(running("perception_node", {"model": str(student)}, remap)))
            bring_up(bench, f"/dino/{name}/perception")
        rows.append({"nodes": f"{count} nodes", **rate_of(bench, SIZES["VGA"], seconds, 15.0), "MB": memory(nodes)})
    bench.destroy_node()
    bench = Bench(names)
    with running("perception_node", {"model": str(student), "cameras": names}, ()) as node:
        bring_up(bench, "/dino/perception")
        rows.append({"nodes": "one node", **rate_of(bench, SIZES["VGA"], seconds, 15.0), "MB": memory([node])})
    bench.destroy_node()
    return [{**row, "ratio": row["fps"] / rows[0]["fps"]} for row in rows]


def idle(student: Path, seconds: float) -> dict[str, float]:
    """Share of a core that a node uses while its camera sends and nobody listens."""
    bench = Bench()
    messages = [rgb_message(picture, Header()) for picture in pictures(*SIZES["VGA"])]
    bench.destroy_node()
    camera = Node("camera")
    publisher = camera.create_publisher(Image, "/dino/image", 5)
    with running("perception_node", {"model": str(student)}, ()) as node:
        bring_up(camera, "/dino/perception")
        time.sleep(2)
        before, start = cpu_seconds(node), time.monotonic()
        while time.monotonic() - start < seconds:
            publisher.publish(messages[0])
            time.sleep(1 / 30)
        share = (cpu_seconds(node) - before) / (time.monotonic() - start)
    camera.destroy_node()
    return {"share of a core": share}


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)


def main() -> None:
    """Measure everything, or what is named."""
    parts = ("latency", "throughput", "cameras", "idle")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/runtime"))
    parser.add_argument("--runs", type=int, default=200, help="frames per latency row")
    parser.add_argument("--seconds", type=float, default=15.0, help="per row of frames per second")
    parser.add_argument("--int8", type=Path, help="the quantised ViT-S/16, for its row")
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(PROFILE_VARIABLES, str(loopback_profile())))
    os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 100))
    students = {name: options.out / f"{name}.onnx" for name in ("vit_s_16", "vit_ti_16")}
    for name, path in students.items():
        random_student(path, name)
    rclpy.init()
    results: dict[str, Any] = {}
    if "latency" in options.parts:
        results["latency"] = [
            row for path in students.values() for masks in MASKS for row in latency(path, options.runs, masks)
        ]
        show("camera to mask, over the engine at the same rate (ms)", results["latency"])
    if "throughput" in options.parts:
        results["throughput"] = throughput("fp32", students["vit_s_16"], "vit_s_16", 30.0, options.seconds)
        if options.int8:
            results["throughput"] += throughput("int8", options.int8, "vit_s_16", 45.0, options.seconds)
        show("ViT-S/16, VGA, frames per second", results["throughput"])
    if "cameras" in options.parts:
        for name, student in students.items():
            results[f"cameras {name}"] = several_cameras(student, 4, options.seconds)
            show(f"four VGA cameras, {name}", results[f"cameras {name}"])
    if "idle" in options.parts:
        results["idle"] = [idle(students["vit_s_16"], options.seconds)]
        show("nobody listens", results["idle"])
    rclpy.shutdown()
    file = options.out / "runtime.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**earlier, **results}, indent=2))


if __name__ == "__main__":
    main()
