"""Message stamps to nanoseconds and back."""

from __future__ import annotations

from typing import Any

SECOND = 1_000_000_000
"""Nanoseconds."""


def stamp_ns(message: Any) -> int:
    """The stamp in a message's header, in nanoseconds; takes messages of rclpy and of rosbags."""
    stamp = message.header.stamp
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def stamp_fields(nanoseconds: int) -> dict[str, int]:
    """The fields of a builtin_interfaces/Time: `Time(**stamp_fields(stamp))`."""
    sec, nanosec = divmod(nanoseconds, SECOND)
    return {"sec": sec, "nanosec": nanosec}
