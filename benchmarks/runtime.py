"""The perception node against its bare engine, against the node people write today, and against one node per camera.

    python benchmarks/runtime.py --out runs/runtime

Camera and listener are one process, the node another, with real Fast DDS and the shipped profile (loopback only)
between them. The students have random weights; the images are the demo's, scaled. Every number has its baseline from
the same run, with which it takes turns; in brackets is the interval that holds a ratio 95 times in 100. Prints each row
when it is measured and writes it to OUT/runtime.json, with the machine and its load. Leave the machine alone while it
runs. `--quick` takes eight minutes for a row of each kind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from measuring import Results, machine, paired
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from students import quantized_student, random_student

from dino_ros.demo.domain import free_domain
from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.images.sources import open_source
from dino_ros.images.stamps import stamp_fields, stamp_ns
from dino_ros.masks.parameters import ATTENTION, MaskParameters
from dino_ros.nodes.messages import jpeg_message, rgb_message
from dino_ros.nodes.transport import loopback_profile, variables_to_set
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import DEFAULT_STUDENT

SIZES = {"VGA": (480, 640), "720p": (720, 1280)}
MASKS = {"attention": ATTENTION, "default": MaskParameters()}
"""The paper's mask, which costs next to nothing, and the node's default."""
WARM_UP = 15
"""Frames before measuring starts."""
TURN = 20
"""Frames in a turn, where node and engine take turns."""
TURNS, QUICK_TURNS = 15, 6
"""Turns of each node, where nodes take turns."""


class Bench(Node):
    """Cameras and listener; records the latency of every mask by camera."""

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
            self.latencies[name].append((time.time_ns() - stamp_ns(message)) / 1e6)

        return hear

    def heard(self) -> None:
        """Wait until every camera has a subscriber."""
        deadline = time.monotonic() + 60
        while not all(camera.get_subscription_count() for camera in self.cameras.values()):
            if time.monotonic() > deadline:
                raise RuntimeError("no node subscribed to the cameras")
            rclpy.spin_once(self, timeout_sec=0.05)

    def play(self, messages: Sequence[Any], frames: int, rate: float, cameras: Sequence[str] = ("",)) -> float:
        """Publish on some of the cameras at a rate; returns the seconds it took."""
        start = time.monotonic()
        for number in range(frames):
            for name in cameras:
                message = messages[number % len(messages)]
                message.header.stamp = Time(**stamp_fields(time.time_ns()))
                self.cameras[name].publish(message)
            self.spin_until(start + (number + 1) / rate)
        return time.monotonic() - start

    def drain(self) -> None:
        """Receive what is still on its way."""
        self.spin_until(time.monotonic() + 0.5)

    def spin_until(self, moment: float) -> None:
        """Receive until `time.monotonic()` reaches a time."""
        while (left := moment - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def clear(self) -> None:
        """Forget the latencies so far."""
        for latencies in self.latencies.values():
            latencies.clear()


def images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Ten of the demo's frames, resized."""
    frames = list(open_source(TABLE, TOPIC))[::30]
    return [cv2.resize(frame.rgb(), (width, height)).astype(np.uint8) for frame in frames]


class BareEngine:
    """The engine alone, batch 1, for the outputs that a mask with these parameters needs."""

    def __init__(self, student: Path, mask: MaskParameters) -> None:
        perceiver = Perceiver.load(student)
        self._backend = perceiver.backend
        self._needed = sorted(perceiver.request(["mask"], mask).student_outputs)
        self._batch = np.stack([perceiver.prepare_image(images(*SIZES["VGA"])[0]).input])
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


def latency(student: Path, runs: int, masks: str, sizes: Iterable[str] = SIZES) -> Iterator[dict[str, Any]]:
    """Yield the latency from camera to mask over the bare engine's, for sizes and every transport, at half its rate.

    Node and engine take turns of TURN frames, so a machine that slows down slows both. Each percentile is compared with
    the engine's own.
    """
    parameters = MASKS[masks]
    engine = BareEngine(student, parameters)
    rate = 500 / float(np.median(engine.run(TURN)))
    for transport, kind in (("raw", Image), ("compressed", CompressedImage)):
        for size in sizes:
            make = rgb_message if kind is Image else jpeg_message
            messages = [make(image, Header()) for image in images(*SIZES[size])]
            bench = Bench(kind=kind)
            without_pause: list[float] = []
            bare: list[list[float]] = []
            got: list[list[float]] = []
            asked = {"model": str(student), "image_transport": transport, **as_node_parameters(parameters)}
            with running("perception_node", asked, ()):
                bring_up(bench, "/dino/perception")
                bench.heard()
                bench.play(messages, WARM_UP, rate)
                bench.drain()
                for _ in range(runs // TURN):
                    without_pause += engine.run(TURN)
                    bare.append(engine.run(TURN, rate))
                    bench.clear()
                    bench.play(messages, TURN, rate)
                    bench.drain()
                    got.append(list(bench.latencies[""]))
            bench.destroy_node()
            heard = [turn for turn in zip(got, bare, strict=True) if turn[0]]
            got, bare = (list(turns) for turns in zip(*heard, strict=True))
            p50, p99 = np.percentile(np.concatenate(got), (50, 99))
            bare50, bare99 = np.percentile(np.concatenate(bare), (50, 99))
            yield (
                {"student": student.stem, "mask": masks, "frames": f"{size} {transport}"}
                | {"masks": sum(map(len, got)), "of": runs // TURN * TURN}
                | {"without pause p50": float(np.median(without_pause)), "engine p50": bare50, "engine p99": bare99}
                | {"p50": p50, "p99": p99, "p50 ratio": paired(got, bare), "p99 ratio": paired(got, bare, 99)}
                | {"load": machine()["load"]}
            )


def default_mask(student: str | Path, out: Path) -> dict[str, Any]:
    """Milliseconds of the node's default mask at VGA, and over those of the engine before it, by `dino-ros bench`."""
    command = [sys.executable, "-m", "dino_ros.cli", "bench", str(student), "--size", "640x480", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    stages = json.loads((out / "bench.json").read_text())["stages"]
    return {
        "student": Path(student).stem,
        "engine p50": stages["infer"]["p50"],
        "mask p50": stages["mask"]["p50"],
        "mask p99": stages["mask"]["p99"],
        "mask over engine": stages["mask"]["p50"] / stages["infer"]["p50"],
        "load": machine()["load"],
    }


@contextlib.contextmanager
def plain(shape: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the plain node in the namespace of a camera of Bench."""
    script = str(Path(__file__).with_name("plain_node.py"))
    process = subprocess.Popen([sys.executable, script, shape, "--ros-args", "-r", f"__ns:=/dino/{name}"])
    try:
        yield process
    finally:
        process.send_signal(2)
        process.wait(timeout=20)


@contextlib.contextmanager
def ours(bench: Bench, name: str, parameters: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the perception node in the namespace of a camera of Bench, or of several."""
    with running("perception_node", parameters, (f"__ns:=/dino/{name}",)) as process:
        bring_up(bench, f"/dino/{name}/perception")
        yield process


def in_turns(
    bench: Bench, nodes: dict[str, list[str]], seconds: float, rate: float, turns: int
) -> list[dict[str, Any]]:
    """Masks per second of several running nodes whose cameras take turns.

    A machine that slows down thus slows all of them. `nodes` has the cameras of each, VGA and raw. Returns a row per
    node: masks per second over all turns, those of the slowest camera, latency in ms, and the ratio to the first node.
    """
    messages = [rgb_message(image, Header()) for image in images(*SIZES["VGA"])]
    rates: dict[str, list[float]] = {name: [] for name in nodes}
    slowest: dict[str, list[float]] = {name: [] for name in nodes}
    latencies: dict[str, list[float]] = {name: [] for name in nodes}
    bench.heard()
    for _ in range(turns):
        for name, cameras in nodes.items():
            bench.play(messages, WARM_UP, rate, cameras)
            bench.clear()
            took = bench.play(messages, round(seconds * rate), rate, cameras)
            counts = [len(bench.latencies[camera]) for camera in cameras]
            rates[name].append(sum(counts) / took)
            slowest[name].append(min(counts) / took)
            latencies[name] += [value for camera in cameras for value in bench.latencies[camera]]
            bench.drain()
    baseline = next(iter(rates.values()))
    return [
        {
            "node": name,
            "fps": float(np.mean(measured)),
            "slowest camera": float(np.mean(slowest[name])),
            "p50": float(np.median(latencies[name])),
            "ratio": paired(measured, baseline),
            "load": machine()["load"],
        }
        for name, measured in rates.items()
    ]


def throughput(name: str, student: Path, shape: str, rate: float, seconds: float, turns: int) -> list[dict[str, Any]]:
    """The plain node and ours with each of MASKS, on a camera faster than any of them.

    The plain node makes the mask "attention".
    """
    bench = Bench(["plain", *MASKS])
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain(shape, "plain"))
        for masks, parameters in MASKS.items():
            stack.enter_context(ours(bench, masks, {"model": str(student), **as_node_parameters(parameters)}))
        nodes = {"plain (torch eager)": ["plain"], **{f"dino_ros, {name}, {masks}": [masks] for masks in MASKS}}
        rows = in_turns(bench, nodes, seconds, rate, turns)
    bench.destroy_node()
    return [{"camera": f"{rate:.0f} Hz", **row} for row in rows]


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


def several_cameras(student: Path, count: int, seconds: float, turns: int) -> list[dict[str, Any]]:
    """One node for several 20 Hz cameras, more than any node keeps up with, against a node for each."""
    names = [f"camera{number}" for number in range(count)]
    together = [f"together/{name}" for name in names]
    bench = Bench([*names, *together])
    with contextlib.ExitStack() as stack:
        each = [stack.enter_context(ours(bench, name, {"model": str(student)})) for name in names]
        one = stack.enter_context(ours(bench, "together", {"model": str(student), "cameras": names}))
        rows = in_turns(bench, {f"{count} nodes": names, "one node": together}, seconds, 20.0, turns)
        for row, processes in zip(rows, (each, [one]), strict=True):
            row["MB"] = memory(processes)
    bench.destroy_node()
    return rows


def idle(student: Path, seconds: float) -> dict[str, float]:
    """Share of a core that a node uses while its camera publishes and nobody subscribes."""
    bench = Bench()
    messages = [rgb_message(image, Header()) for image in images(*SIZES["VGA"])]
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


def main() -> None:
    """Measure everything, or only what is named."""
    parts = ("latency", "mask", "throughput", "cameras", "idle")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/runtime"))
    parser.add_argument("--runs", type=int, default=200, help="frames per latency row")
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn of a node, for its frames per second")
    parser.add_argument("--quick", action="store_true", help="headline rows alone, and fewer turns")
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(variables_to_set(), str(loopback_profile())))
    with free_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Measure what is asked for."""
    students = {name: options.out / f"{name}.onnx" for name in ("vit_s_16", "vit_ti_16")}
    for name, path in students.items():
        random_student(path, name)
    int8 = options.out / "vit_s_16_int8.onnx"
    quantized_student(int8, students["vit_s_16"], images(*SIZES["VGA"]))
    rclpy.init()
    results = Results(options.out / "runtime.json")
    results.add("machine", "machine", [machine()])
    turns, masks, sizes = (QUICK_TURNS, ("attention",), ("VGA",)) if options.quick else (TURNS, MASKS, SIZES)
    if "latency" in options.parts:
        runs = TURN * QUICK_TURNS if options.quick else options.runs
        rows = (row for path in students.values() for mask in masks for row in latency(path, runs, mask, sizes))
        results.add("latency", "camera to mask, over the engine at the same rate (ms)", rows)
    if "mask" in options.parts:
        rows = (default_mask(student, options.out / "bench") for student in (DEFAULT_STUDENT, students["vit_s_16"]))
        results.add("mask", "the default mask, beside the engine (ms)", rows)
    if "throughput" in options.parts:
        asked = [("fp32", students["vit_s_16"], 30.0), ("int8", int8, 60.0)]
        rows = (
            row for name, path, hz in asked for row in throughput(name, path, "vit_s_16", hz, options.seconds, turns)
        )
        results.add("throughput", "ViT-S/16, VGA, frames per second", rows)
    if "cameras" in options.parts:
        for name, student in {**students, "vit_s_16 int8": int8}.items():
            rows = iter(several_cameras(student, 4, options.seconds, turns))
            results.add(f"cameras {name}", f"four VGA cameras, {name}", rows)
    if "idle" in options.parts:
        results.add("idle", "nobody listens", [idle(students["vit_s_16"], 5 * options.seconds)])
    rclpy.shutdown()


if __name__ == "__main__":
    main()
