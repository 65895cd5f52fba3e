"""Run the demo: start the nodes, record, write images and a summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions

from dino_ros.demo.domain import free_domain
from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.recorder import Recorder
from dino_ros.demo.table import TABLE, TOPIC, ground_truth
from dino_ros.errors import UserError
from dino_ros.files import check_writable, replacing, write_whole
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import BagSource, open_source
from dino_ros.nodes.transport import loopback_profile, variables_to_set
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.progress import duration
from dino_ros.student import find_student

CAMERA_TOPICS = {"raw": "/camera/image_raw", "compressed": "/camera/image_raw/compressed"}
"""By transport."""
SETTLED = 1_000_000_000
"""Nanoseconds of quiet after which the perception node's word that it is done ends the recording."""
PATIENCE = 30_000_000_000
"""Nanoseconds of quiet that end the recording without it."""
SHEET = (4, 3)
"""Columns and rows of the contact sheet."""


def run_demo(
    path: Path | None,
    topic: str | None,
    out: Path,
    model: str = "",
    backend: str = "auto",
    transport: str = "raw",
) -> dict[str, Any]:
    """Play a bag, video or folder (default: the bundled table) and write overlay.mp4, contact_sheet.png, summary.json.

    Returns the summary. Raises UserError if the input, the model or the backend cannot be used, before it starts
    anything.
    """
    check_writable(out)
    truth = {} if path else ground_truth()
    path, topic = (path, topic) if path else (TABLE, TOPIC)
    source = open_source(path, topic)
    perceiver = Perceiver.load(model, backend, report=partial(print, flush=True))
    student = find_student(model)
    print(
        f"Playing {len(source)} frames of {source.name} through the nodes, and drawing the masks into {out}.",
        flush=True,
    )
    perception = {"model": str(student), "backend": backend, "image_transport": transport, "reliability": "reliable"}
    topic = source.topic if isinstance(source, BagSource) else ""
    camera = {"path": str(path), "topic": topic, "image_transport": transport, "wait_for_subscribers": 2}
    remaps = ("image:=/camera/image_raw", "image/compressed:=/camera/image_raw/compressed")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "overlay.mp4"
        with private_ros():
            recorder = Recorder(CAMERA_TOPICS[transport], transport == "compressed", video, truth)
            try:
                with running("perception_node", perception, remaps) as perceiving:
                    if not bring_up(recorder, "/dino/perception"):
                        raise UserError("The perception node did not become active: see its log above.")
                    with running("camera_node", camera, ("__ns:=/camera",)) as playing:
                        record(recorder, playing, perceiving, len(source))
            finally:
                recorder.close()
        if recorder.overlays:
            write_contact_sheet(video, out / "contact_sheet.png")
            write_whole(out / "overlay.mp4", video.read_bytes())
    summary = summarize(recorder)
    summary |= {"model": student.stem, "backend": perceiver.backend.description, "input": source.name}
    write_whole(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


@contextmanager
def private_ros() -> Iterator[None]:
    """rclpy, here and in child processes, on the loopback and on a domain of its own: nothing comes in or goes out."""
    with free_domain() as domain:
        os.environ.update(dict.fromkeys(variables_to_set(), str(loopback_profile())), ROS_DOMAIN_ID=str(domain))
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays a KeyboardInterrupt
        try:
            yield
        finally:
            rclpy.shutdown()


@contextmanager
def running(node: str, parameters: Mapping[str, object], remaps: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of this package's nodes in a process of its own, and end it with SIGINT."""
    command = [sys.executable, "-m", f"dino_ros.nodes.{node}", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    for remap in remaps:
        command += ["-r", remap]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def record(
    recorder: Recorder, playing: subprocess.Popen[bytes], perceiving: subprocess.Popen[bytes], frames: int
) -> None:
    """Receive until the camera node has ended and every frame is accounted for; shows progress.

    Raises UserError if either node fails.
    """
    shown = time.monotonic()
    started: float | None = None
    quiet_since = time.time_ns()
    while True:
        rclpy.spin_once(recorder, timeout_sec=0.1)
        if perceiving.poll() is not None:
            raise UserError("The perception node ended: see its log above.")
        received = recorder.frames.received
        started = started or (time.monotonic() if received else None)
        if time.monotonic() - shown > 2.0:
            shown = time.monotonic()
            left = f", {duration((shown - started) * max(frames - received, 0) / received)} left" if started else ""
            print(f"  {received} of {frames} frames, {recorder.masks.received} masks{left}", flush=True)
        if playing.poll() is None:
            quiet_since = time.time_ns()
            continue
        if playing.returncode:
            raise UserError("The camera node failed: see its log above.")
        quiet_since = max(quiet_since, recorder.last_heard)
        if recorder.settled(quiet_since + SETTLED) or time.time_ns() >= quiet_since + PATIENCE:
            return


def summarize(recorder: Recorder) -> dict[str, Any]:
    """Numbers of a recording; latency and rate are null where no mask arrived.

    masks_received, frames_superseded, frames_unusable and frames_lost add up to frames_published.
    """
    matched = sorted(recorder.sent.keys() & recorder.received.keys())
    latencies = [(recorder.received[stamp] - recorder.sent[stamp]) / 1e6 for stamp in matched]
    times = sorted(recorder.received.values())
    rate = (len(times) - 1) / ((times[-1] - times[0]) / 1e9) if len(times) > 1 else None
    return {
        "frames_published": recorder.frames.published,
        "masks_received": recorder.masks.received,
        "stamps_matched": len(matched),
        "frames_superseded": recorder.superseded,
        "frames_unusable": recorder.unusable,
        "frames_lost": recorder.lost,
        "latency_ms": {
            f"p{p}": round(float(np.percentile(latencies, p)), 2) if latencies else None for p in (50, 90, 99)
        },
        "rate_hz": round(rate, 2) if rate else None,
        "mask_iou": _mean(recorder.ious),
        "attention_mask_iou": _mean(recorder.attention_ious),
    }


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def write_contact_sheet(video: Path, sheet: Path) -> None:
    """Write evenly spaced frames of a video as one PNG; black where it has too few."""
    capture = cv2.VideoCapture(str(video))
    frames = []
    while (read := capture.read())[0]:
        height, width = read[1].shape[:2]
        frames.append(cv2.resize(read[1], (480, round(480 * height / width)), interpolation=cv2.INTER_AREA))
    columns, rows = SHEET
    chosen = [frames[number] for number in evenly_spaced(len(frames), columns * rows)]
    chosen += [np.zeros_like(frames[0])] * (columns * rows - len(chosen))
    image = np.vstack([np.hstack(chosen[row * columns : (row + 1) * columns]) for row in range(rows)])
    with replacing(sheet) as temporary:
        cv2.imwrite(str(temporary), image)
