"""Statistics of a camera's frames, published on /diagnostics once a second."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from dino_ros.nodes.matching import Silence
from dino_ros.nodes.transport import DEFAULT_SEGMENT

FRAMES_KEPT = 100
"""Latest frames over which the shares of lost and of superseded ones are computed."""
FEWEST_FRAMES = 20
"""Fewest frames for which such a share means anything."""
RECEIVED, SUPERSEDED, UNUSABLE = "frames received", "frames superseded", "frames unusable"
"""The report's keys for the frames counted since the node started: those that arrived, those that a newer one replaced,
and those that could not be processed."""
LOSS_TOLERATED = 0.1
"""Share of lost or superseded frames above which the node warns."""
WARNED_FOR = 10.0
"""Seconds for which the report warns of a frame that was lost or could not be used; as long as all frames are bad, so
that none is usable for that time, the report says ERROR."""


class Diagnostics:
    """Counts a camera's frames and their latency, and reports them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[bool] = deque(maxlen=FRAMES_KEPT)
        self._ends: deque[bool] = deque(maxlen=FRAMES_KEPT)
        """Whether each of the latest frames was published; the others were superseded."""
        self._frame_bytes = 0
        self._latencies: list[float] = []
        self._received = self._published = self._superseded = 0
        self._total_received = self._total_problems = 0
        self._problem = ""
        self._problem_at = self._silent_since = monotonic()
        self._bad_since: float | None = None
        """When the first of the bad frames came after which none was published."""

    def subscribed(self) -> None:
        """The camera was subscribed to: from now on its frames are missed."""
        with self._lock:
            self._silent_since = monotonic()
            self._bad_since = None

    def received(self, size: int) -> None:
        """A frame of `size` bytes came in."""
        with self._lock:
            self._received += 1
            self._total_received += 1
            self._frame_bytes = size
            self._arrivals.append(True)
            self._silent_since = monotonic()

    def lost(self, count: int) -> None:
        """DDS lost `count` of the camera's frames in transport."""
        with self._lock:
            self._arrivals.extend([False] * count)
        if warning := self.transport_warning():
            self._warn(warning)

    def published(self, latency: float) -> None:
        """Results of a frame went out, `latency` seconds after it came in."""
        with self._lock:
            self._published += 1
            self._latencies.append(latency)
            self._ends.append(True)
            self._bad_since = None

    def superseded(self) -> None:
        """A frame that came in was replaced by a newer one."""
        with self._lock:
            self._superseded += 1
            self._ends.append(False)
            share = _share_of_false(self._ends)
        if share > LOSS_TOLERATED:
            self._warn(
                f"{share:.0%} of the camera's frames are superseded by newer ones before the student is done: set "
                f"max_rate or input_decimation to what it manages, or take a smaller student."
            )

    def problem(self, sentence: str) -> None:
        """A frame could not be used."""
        self._warn(sentence)
        with self._lock:
            self._total_problems += 1
            self._bad_since = self._bad_since or monotonic()

    def silent_for(self) -> float:
        """Seconds since the latest frame, or since the camera was subscribed to."""
        with self._lock:
            return monotonic() - self._silent_since

    def lost_in_transport(self) -> float:
        """Share of the camera's latest frames, 0 to 1, that never came in."""
        with self._lock:
            return _share_of_false(self._arrivals)

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
        self,
        name: str,
        state: str,
        seconds: float,
        wanted: bool,
        facts: dict[str, str],
        failure: str = "",
        silence: Silence | None = None,
        mismatch: str = "",
    ) -> DiagnosticStatus:
        """The status since the last report, which was `seconds` ago.

        `name` is the name of the status, `state` the node's lifecycle state, `wanted` says whether any result has a
        subscriber, and `facts` are further values to show (model, backend, topic). What is wrong besides the frames:
        `failure`, why the node cannot work; `silence`, why no frames come; `mismatch`, which topics do not fit and why,
        such as for their QoS.
        """
        lost = self.lost_in_transport()
        now = monotonic()
        with self._lock:
            received, published = self._received, self._published
            latencies = np.array(self._latencies) * 1e3
            problem = self._problem if now - self._problem_at < WARNED_FOR else ""
            only_problems = self._bad_since is not None and now - self._bad_since >= WARNED_FOR
            counts = {RECEIVED: self._total_received, SUPERSEDED: self._superseded, UNUSABLE: self._total_problems}
            self._received = self._published = 0
            self._latencies = []
        level, message = DiagnosticStatus.OK, f"{state}, {published / seconds:.1f} Hz"
        if failure:
            level, message = DiagnosticStatus.ERROR, failure
        elif silence:
            level, message = DiagnosticStatus.STALE if counts[RECEIVED] else DiagnosticStatus.WARN, silence.reason
            if silence.lasting:
                level = DiagnosticStatus.ERROR
        elif problem:
            level, message = DiagnosticStatus.ERROR if only_problems else DiagnosticStatus.WARN, problem
        elif mismatch:
            level, message = DiagnosticStatus.WARN, mismatch
        elif state == "active" and not wanted:
            message = "active, no subscribers: not subscribed to the camera"
        values = {
            "state": state,
            **facts,
            "input rate (Hz)": f"{received / seconds:.1f}",
            "output rate (Hz)": f"{published / seconds:.1f}",
            **{name: str(count) for name, count in counts.items()},
            "frames lost before the node (%)": f"{lost * 100:.0f}",
        }
        if mismatch:
            values["topics that do not fit"] = mismatch
        if latencies.size:
            for percentile in (50, 90, 99):
                values[f"latency p{percentile} (ms)"] = f"{np.percentile(latencies, percentile):.1f}"
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )

    def _warn(self, sentence: str) -> None:
        with self._lock:
            self._problem, self._problem_at = sentence, monotonic()


def _share_of_false(kept: deque[bool]) -> float:
    """Share of frames, 0 to 1, that did not get through; 0 for too few to tell."""
    return kept.count(False) / len(kept) if len(kept) >= FEWEST_FRAMES else 0.0
