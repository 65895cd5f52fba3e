"""Statistics of a camera's frames, published on /diagnostics once a second."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from dino_ros.nodes.transport import DEFAULT_SEGMENT

ARRIVALS_KEPT = 100
"""Latest frames over which the share of lost ones is computed."""
FEWEST_ARRIVALS = 20
"""Fewest frames for which that share means anything."""
RECEIVED, SUPERSEDED, UNUSABLE = "frames received", "frames superseded", "frames unusable"
"""The report's keys for the frames counted since the node started: those that arrived, those that a newer one replaced,
and those that could not be processed."""
LOSS_TOLERATED = 0.1
"""Share of lost frames above which the node warns."""


class Diagnostics:
    """Counts a camera's frames and their latency, and reports them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[bool] = deque(maxlen=ARRIVALS_KEPT)
        self._frame_bytes = 0
        self._latencies: list[float] = []
        self._received = self._published = self._superseded = 0
        self._problem = ""
        self._total_received = self._total_problems = 0

    def received(self, size: int) -> None:
        """A frame of `size` bytes came in."""
        with self._lock:
            self._received += 1
            self._total_received += 1
            self._frame_bytes = size
            self._arrivals.append(True)

    def lost(self, count: int) -> None:
        """DDS lost `count` of the camera's frames in transport."""
        with self._lock:
            self._arrivals.extend([False] * count)

    def published(self, latency: float) -> None:
        """Results of a frame went out, `latency` seconds after it came in."""
        with self._lock:
            self._published += 1
            self._latencies.append(latency)

    def superseded(self) -> None:
        """A frame that came in was replaced by a newer one."""
        with self._lock:
            self._superseded += 1

    def problem(self, sentence: str) -> None:
        """A frame could not be used; the next report shows the sentence."""
        with self._lock:
            self._problem = sentence
            self._total_problems += 1

    def lost_in_transport(self) -> float:
        """Share of the camera's latest frames, 0 to 1, that never came in."""
        with self._lock:
            arrivals = list(self._arrivals)
        return arrivals.count(False) / len(arrivals) if len(arrivals) >= FEWEST_ARRIVALS else 0.0

    def transport_warning(self) -> str:
        """A sentence that says what to do if many frames are lost, else empty."""
        lost = self.lost_in_transport()
        if lost <= LOSS_TOLERATED:
            return ""
        size = f" ({self._frame_bytes / 1e6:.1f} MB each)" if self._frame_bytes else ""
        advice = (
            "give the camera's process the large-frame profile too "
            "(FASTRTPS_DEFAULT_PROFILES_FILE=.../config/fastdds.xml)"
        )
        if 0 < self._frame_bytes <= DEFAULT_SEGMENT:
            advice = "set reliability to reliable, here and in the camera's driver"
        return f"{lost:.0%} of the camera's frames are lost in transport{size}: {advice}."

    def report(
        self, name: str, state: str, seconds: float, wanted: bool, facts: dict[str, str], failure: str = ""
    ) -> DiagnosticStatus:
        """The status since the last report, which was `seconds` ago.

        `name` is the name of the status, `state` the node's lifecycle state, `wanted` says whether any result has a
        subscriber, `facts` are further values to show (model, backend, topic), and `failure` says why the node cannot
        work, if it cannot.
        """
        warning = self.transport_warning()
        lost = self.lost_in_transport()
        with self._lock:
            received, published = self._received, self._published
            latencies = np.array(self._latencies) * 1e3
            problem = self._problem
            counts = {RECEIVED: self._total_received, SUPERSEDED: self._superseded, UNUSABLE: self._total_problems}
            self._received = self._published = 0
            self._latencies = []
            self._problem = ""
        level, message = DiagnosticStatus.OK, f"{state}, {published / seconds:.1f} Hz"
        if failure:
            level, message = DiagnosticStatus.ERROR, failure
        elif problem:
            level, message = DiagnosticStatus.WARN, problem
        elif warning:
            level, message = DiagnosticStatus.WARN, warning
        elif state == "active" and not wanted:
            message = "active, no subscribers: not subscribed to the camera"
        elif state == "active" and not received:
            level, message = DiagnosticStatus.WARN, f"no images on {facts.get('image topic', 'the image topic')}"
        values = {
            "state": state,
            **facts,
            "input rate (Hz)": f"{received / seconds:.1f}",
            "output rate (Hz)": f"{published / seconds:.1f}",
            **{name: str(count) for name, count in counts.items()},
            "frames lost before the node (%)": f"{lost * 100:.0f}",
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
