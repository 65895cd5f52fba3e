"""Run the demo: start the nodes, record, write images and a summary."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.recorder import Recorder
from dino_ros.demo.table import TABLE, TOPIC, ground_truth
from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.nodes.transport import PROFILE_VARIABLES, loopback_profile
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import find_student

SILENCE = 2.0
"""Seconds without a message after the camera's end that end the recording."""
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

    Returns the summary. Raises UserError if the input, the model or the backend cannot be used; the checks come before
    anything is started.
    """
    embedded = path is None
    path, topic = (TABLE, TOPIC) if path is None else (path, topic)
    source = open_source(path, topic)
    perceiver = Perceiver.load(model, backend)
    truth = ground_truth() if embedded else {}
    out.mkdir(parents=True, exist_ok=True)
    # A domain of its own and the loopback profile: nothing leaves the machine, nothing else comes in.
    os.environ.update(
        dict.fromkeys(PROFILE_VARIABLES, str(loopback_profile())), ROS_DOMAIN_ID=str(random.randint(1, 100))
    )

    rclpy.init()
    camera_topic = "/camera/image_raw" + ("/compressed" if transport == "compressed" else "")
    video = out / "overlay.tmp.mp4"
    recorder = Recorder(camera_topic, transport == "compressed", video, truth)
    try:
        perception = {"model": str(find_student(model)), "backend": backend, "image_transport": transport}
        camera = {
            "path": str(path),
            "topic": topic or "",
            "image_transport": transport,
            "wait_for_subscribers": 2,
        }
        remap = ("image:=/camera/image_raw", "image/compressed:=/camera/image_raw/compressed")
        with running("perception_node", {**perception, "reliability": "reliable"}, remap):
            if not bring_up(recorder, "/dino/perception"):
                raise UserError("The perception node did not become active: see its log above.")
            with running("camera_node", camera, ("__ns:=/camera",)) as player:
                record(recorder, player, len(source))
    finally:
        recorder.close()
        rclpy.shutdown()
    summary = summarize(recorder)
    summary |= {
        "model": find_student(model).stem,
        "backend": perceiver.backend.description,
        "input": source.name,
    }
    if recorder.overlays:
        write_contact_sheet(video, out / "contact_sheet.png")
        os.replace(video, out / "overlay.mp4")
    temporary = out / "summary.json.tmp"
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, out / "summary.json")
    return summary


@contextlib.contextmanager
def running(node: str, parameters: Mapping[str, object], remaps: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of this package's nodes as a process of its own, and end it with SIGINT."""
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
            process.send_signal(2)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def record(recorder: Recorder, player: subprocess.Popen[bytes], frames: int) -> None:
    """Receive until the player has ended and nothing more comes; shows progress."""
    shown = time.monotonic()
    while player.poll() is None or time.time() - recorder.last_heard / 1e9 < SILENCE:
        rclpy.spin_once(recorder, timeout_sec=0.1)
        if time.monotonic() - shown > 2.0:
            shown = time.monotonic()
            print(f"  {len(recorder.sent)} of {frames} frames, {len(recorder.received)} masks", flush=True)
    if player.returncode:
        raise UserError("The camera node failed: see its log above.")


def summarize(recorder: Recorder) -> dict[str, Any]:
    """Numbers of a recording; latency and rate are null where no mask came."""
    matched = sorted(recorder.sent.keys() & recorder.received.keys())
    latencies = [(recorder.received[stamp] - recorder.sent[stamp]) / 1e6 for stamp in matched]
    times = sorted(recorder.received.values())
    rate = (len(times) - 1) / ((times[-1] - times[0]) / 1e9) if len(times) > 1 else None
    return {
        "frames_published": len(recorder.sent),
        "masks_received": len(recorder.received),
        "stamps_matched": len(matched),
        "frames_superseded": recorder.superseded,
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
    """Frames spread evenly over a video, in one PNG."""
    capture = cv2.VideoCapture(str(video))
    frames = []
    while (read := capture.read())[0]:
        height, width = read[1].shape[:2]
        frames.append(cv2.resize(read[1], (480, round(480 * height / width)), interpolation=cv2.INTER_AREA))
    columns, rows = SHEET
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, columns * rows).round().astype(int)]
    image = np.vstack([np.hstack(chosen[row * columns : (row + 1) * columns]) for row in range(rows)])
    temporary = sheet.with_name("contact_sheet.tmp.png")
    cv2.imwrite(str(temporary), image)
    os.replace(temporary, sheet)
