"""Times of messages as one number."""

from __future__ import annotations

from typing import Any


def stamp_ns(message: Any) -> int:
    """Stamp of a message's header, nanoseconds; the message may be of rclpy or of rosbags."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
