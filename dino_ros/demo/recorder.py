"""A subscriber that records what the perception node publishes, and counts what became of every frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.images.encodings import to_rgb
from dino_ros.images.stamps import stamp_ns
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard, upsample_mask
from dino_ros.messages import to_array
from dino_ros.nodes.diagnostics import RECEIVED, SUPERSEDED, UNUSABLE
from dino_ros.nodes.distributions import with_message_info


class Traffic:
    """Messages of a topic that has one publisher."""

    def __init__(self) -> None:
        self.published = 0
        """As the publisher's writer numbers them, so lost ones count too; those that arrived, where it numbers none."""
        self.received = 0

    def count(self, info: dict[str, Any]) -> None:
        """Count a message that arrived; not every RMW numbers messages."""
        self.received += 1
        self.published = max(self.received, info["publication_sequence_number"] or 0)


class Recorder(Node):
    """Subscribes to a camera, to /dino/attention_mask and to /dino/overlay; writes the overlays as a video."""

    def __init__(self, camera_topic: str, compressed: bool, video: Path, truth: dict[int, NDArray[np.uint8]]) -> None:
        super().__init__("recorder")
        self.frames = Traffic()
        self.masks = Traffic()
        self.sent: dict[int, int] = {}
        """Stamp of each camera frame -> time it was sent, nanoseconds of the system clock."""
        self.received: dict[int, int] = {}
        """Stamp of each mask -> time it arrived, nanoseconds of the system clock."""
        self.ious: list[float] = []
        """IoU of each mask with the ground truth."""
        self.attention_ious: list[float] = []
        """IoU of the paper's mask of the same frames, made from the attention maps that arrived."""
        self.overlays = 0
        self.last_heard = 0
        """Time the last frame or mask arrived, nanoseconds of the system clock."""
        self._reported_at = 0
        self._counts = dict.fromkeys((RECEIVED, SUPERSEDED, UNUSABLE), 0)
        self._truth = truth
        self._video_path = video
        self._video: cv2.VideoWriter | None = None
        # A full queue would drop messages without a word.
        qos = QoSProfile(history=HistoryPolicy.KEEP_ALL)
        on_frame, on_mask = with_message_info(self._on_frame), with_message_info(self._on_mask)
        self.create_subscription(CompressedImage if compressed else Image, camera_topic, on_frame, qos)
        self.create_subscription(Image, "/dino/attention_mask", on_mask, qos)
        self.create_subscription(Image, "/dino/overlay", self._on_overlay, qos)
        if truth:
            self.create_subscription(Image, "/dino/attention", self._on_attention, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)

    @property
    def superseded(self) -> int:
        """Frames that the node dropped because a newer one had arrived."""
        return self._counts[SUPERSEDED]

    @property
    def unusable(self) -> int:
        """Frames that the node could not process."""
        return self._counts[UNUSABLE]

    @property
    def lost(self) -> int:
        """Frames that never reached the node, and masks that never reached the recorder."""
        return self.frames.published - self._counts[RECEIVED] + self.masks.published - self.masks.received

    def settled(self, time: int) -> bool:
        """Whether the node has reported since `time`, nanoseconds of the system clock, that no frame is on its way."""
        done = self.masks.published + self.superseded + self.unusable
        return self._reported_at >= time and done == self._counts[RECEIVED]

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.release()
        self.destroy_node()

    def _on_frame(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        self.frames.count(info)
        self.sent[stamp_ns(message)] = info["source_timestamp"]
        self.last_heard = info["received_timestamp"]

    def _on_mask(self, message: Image, info: dict[str, Any]) -> None:
        self.masks.count(info)
        stamp = stamp_ns(message)
        self.received[stamp] = self.last_heard = info["received_timestamp"]
        truth = self._truth.get(stamp)
        if truth is not None and truth.any():
            self.ious.append(jaccard(to_array(message) > 0, truth > 0))

    def _on_attention(self, message: Image) -> None:
        truth = self._truth.get(stamp_ns(message))
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
        self._counts = {name: int(values.get(name, count)) for name, count in self._counts.items()}
        self._reported_at = stamp_ns(message)

    def _rate(self) -> float:
        """Frame rate of the camera so far, Hz; the video gets the same."""
        stamps = sorted(self.sent)
        return 1e9 / float(np.median(np.diff(stamps))) if len(stamps) > 1 else 15.0
