"""A subscriber that records what it receives: masks, overlays and how long they took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.images.encodings import to_rgb
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard, upsample_mask
from dino_ros.messages import to_array
from dino_ros.nodes.diagnostics import SUPERSEDED

HISTORY = 50
"""Messages that may wait for the recorder before one is lost."""


class Recorder(Node):
    """Subscribes to a camera, to /dino/attention_mask and to /dino/overlay; writes the overlays as a video."""

    def __init__(self, camera_topic: str, compressed: bool, video: Path, truth: dict[int, NDArray[np.uint8]]) -> None:
        super().__init__("recorder")
        self.sent: dict[int, int] = {}
        """Stamp of every camera frame -> time it was sent, nanoseconds of the system clock."""
        self.received: dict[int, int] = {}
        """Stamp of every mask -> time it was received, nanoseconds of the system clock."""
        self.ious: list[float] = []
        """Of each mask with the ground truth."""
        self.attention_ious: list[float] = []
        """Of the paper's mask of the same frames, made of the attention that was received."""
        self.overlays = 0
        self.superseded = 0
        """Frames that the node dropped because a newer one had come."""
        self.last_heard = 0
        self._truth = truth
        self._video_path = video
        self._video: cv2.VideoWriter | None = None
        qos = QoSProfile(depth=HISTORY)
        self.create_subscription(CompressedImage if compressed else Image, camera_topic, self._on_frame, qos)
        self.create_subscription(Image, "/dino/attention_mask", self._on_mask, qos)
        self.create_subscription(Image, "/dino/overlay", self._on_overlay, qos)
        if truth:
            self.create_subscription(Image, "/dino/attention", self._on_attention, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.release()
        self.destroy_node()

    def _on_frame(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        self.sent[stamp_of(message)] = info["source_timestamp"]
        self.last_heard = info["received_timestamp"]

    def _on_mask(self, message: Image, info: dict[str, Any]) -> None:
        stamp = stamp_of(message)
        self.received[stamp] = self.last_heard = info["received_timestamp"]
        truth = self._truth.get(stamp)
        if truth is not None and truth.any():
            self.ious.append(jaccard(to_array(message) > 0, truth > 0))

    def _on_attention(self, message: Image) -> None:
        truth = self._truth.get(stamp_of(message))
        if truth is not None and truth.any():
            mask = attention_mask(to_array(message).transpose(2, 0, 1))
            self.attention_ious.append(jaccard(upsample_mask(mask, *truth.shape) > 0, truth > 0))

    def _on_overlay(self, message: Image) -> None:
        rgb = to_rgb(message)
        if self._video is None:
            height, width, _ = rgb.shape
            self._video = cv2.VideoWriter(
                str(self._video_path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate(), (width, height)
            )
        self._video.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        self.overlays += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for status in message.status for pair in status.values}
        self.superseded = int(values.get(SUPERSEDED, self.superseded))

    def _rate(self) -> float:
        """Rate of the camera so far, frames per second: that of the video."""
        stamps = sorted(self.sent)
        return 1e9 / float(np.median(np.diff(stamps))) if len(stamps) > 1 else 15.0


def stamp_of(message: Any) -> int:
    """Header stamp in nanoseconds."""
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)
