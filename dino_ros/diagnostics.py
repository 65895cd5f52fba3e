"""What the node knows about itself, once a second, as a diagnostic_msgs/DiagnosticArray."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

SHARED_MEMORY_SEGMENT = 512 * 1024
"""Bytes of Fast DDS's default shared-memory segment; larger frames go over UDP and may be lost there."""
STAMPS_KEPT = 100
"""Stamps over which the camera's gaps are counted."""
SUPERSEDED = "frames superseded"
"""Key under which the report says how many frames a newer one replaced."""
PAUSE = 20
"""Periods of the camera after which a gap is no loss: the camera, or the subscription to it, was paused."""
GAPS_TOLERATED = 0.1
"""Share of frames that may be missing before the transport is suspected."""


class Diagnostics:
    """Counts frames and times, and reports them. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: deque[int] = deque(maxlen=STAMPS_KEPT)
        self._frame_bytes = 0
        self._latencies: list[float] = []
        self._received = self._published = self._superseded = 0
        self._problem = ""
        self._total_problems = 0

    def received(self, stamp: int, size: int) -> None:
        """A frame came in: its header stamp in nanoseconds and its size in bytes."""
        with self._lock:
            self._received += 1
            self._frame_bytes = size
            if self._stamps and stamp < self._stamps[-1]:
                self._stamps.clear()  # the recording started again
            self._stamps.append(stamp)

    def published(self, latency: float) -> None:
        """Results of a frame went out, `latency` seconds after it came in."""
        with self._lock:
            self._published += 1
            self._latencies.append(latency)

    def superseded(self) -> None:
        """A frame that came in was given up for a newer one."""
        with self._lock:
            self._superseded += 1

    def problem(self, sentence: str) -> None:
        """A frame could not be used; the sentence is part of the next report."""
        with self._lock:
            self._problem = sentence
            self._total_problems += 1

    def lost_in_transport(self) -> float:
        """Share of the camera's frames, 0 to 1, that never came in, judged by gaps between stamps."""
        with self._lock:
            stamps = np.array(self._stamps, dtype=np.int64)
        if len(stamps) < 20:
            return 0.0
        intervals = np.diff(stamps).astype(np.float64)
        period = np.percentile(intervals, 10)  # frames that follow each other directly, even if most are lost
        if period <= 0:
            return 0.0
        running = intervals[intervals <= PAUSE * period]
        expected = np.maximum(np.rint(running / period), 1).sum()
        return float(1 - len(running) / expected)

    def transport_warning(self) -> str:
        """One sentence if large frames arrive with gaps, else empty."""
        lost = self.lost_in_transport()
        if lost <= GAPS_TOLERATED or self._frame_bytes <= SHARED_MEMORY_SEGMENT:
            return ""
        return (
            f"{lost:.0%} of the camera's frames do not arrive and each has {self._frame_bytes / 1e6:.1f} MB: give "
            "the camera's process the large-frame profile too (FASTRTPS_DEFAULT_PROFILES_FILE=.../config/fastdds.xml)."
        )

    def report(self, name: str, state: str, seconds: float, wanted: bool, facts: dict[str, str]) -> DiagnosticStatus:
        """Status since the last report.

        `name` is that of the status, `state` the node's lifecycle state, `seconds` the time since the last report,
        `wanted` whether anybody subscribes to a result, `facts` more to show (model, backend, topic).
        """
        warning = self.transport_warning()
        lost = self.lost_in_transport()
        with self._lock:
            received, published = self._received, self._published
            latencies = np.array(self._latencies) * 1e3
            problem, total_problems, superseded = self._problem, self._total_problems, self._superseded
            self._received = self._published = 0
            self._latencies = []
            self._problem = ""
        level, message = DiagnosticStatus.OK, f"{state}, {published / seconds:.1f} Hz"
        if problem:
            level, message = DiagnosticStatus.WARN, problem
        elif warning:
            level, message = DiagnosticStatus.WARN, warning
        elif state == "active" and not wanted:
            message = "active, nobody subscribes: the camera is left alone"
        elif state == "active" and not received:
            level, message = DiagnosticStatus.WARN, f"no images on {facts.get('image topic', 'the image topic')}"
        values = {
            "state": state,
            **facts,
            "input rate (Hz)": f"{received / seconds:.1f}",
            "output rate (Hz)": f"{published / seconds:.1f}",
            SUPERSEDED: str(superseded),
            "frames lost before the node (%)": f"{lost * 100:.0f}",
            "frames unusable": str(total_problems),
        }
        if latencies.size:
            for percentile in (50, 90, 99):
                values[f"latency p{percentile} (ms)"] = f"{np.percentile(latencies, percentile):.1f}"
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            hardware_id="",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
