"""What the node says of the frames it receives."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus

from dino_ros.diagnostics import Diagnostics

PERIOD = 33_333_333
VGA, SMALL = 640 * 480 * 3, 320 * 240


def report(diagnostics: Diagnostics, state: str = "active") -> DiagnosticStatus:
    return diagnostics.report("/dino/perception: perception", state, 1.0, True, {"image topic": "/camera"})


@pytest.mark.parametrize("lost", [0.0, 0.3, 0.6])
def test_lost_frames_are_estimated_from_the_stamps(lost: float) -> None:
    rng = np.random.default_rng(0)
    diagnostics = Diagnostics()
    for number in np.flatnonzero(rng.random(300) >= lost):
        diagnostics.received(int(number) * PERIOD + int(rng.integers(-1e6, 1e6)), VGA)
    assert diagnostics.lost_in_transport() == pytest.approx(lost, abs=0.12)
    warned = "do not arrive and each has 0.9 MB: give the camera's process" in report(diagnostics).message
    assert warned == (lost > 0)


def test_gaps_of_small_frames_are_no_fault_of_the_transport() -> None:
    diagnostics = Diagnostics()
    for number in range(0, 100, 1):
        if number % 3:
            diagnostics.received(number * PERIOD, SMALL)
    assert report(diagnostics).level == DiagnosticStatus.OK


def test_a_recording_that_starts_again_is_no_gap() -> None:
    diagnostics = Diagnostics()
    for _ in range(2):
        for number in range(30):
            diagnostics.received(number * PERIOD, VGA)
    assert diagnostics.lost_in_transport() == 0


def test_report_counts_since_the_last_one() -> None:
    diagnostics = Diagnostics()
    for number in range(10):
        diagnostics.received(number * PERIOD, SMALL)
        diagnostics.published(number * 1e-3)
    diagnostics.problem("A frame is bad.")
    first = report(diagnostics)
    shown = {pair.key: pair.value for pair in first.values}
    assert (first.level, first.message) == (DiagnosticStatus.WARN, "A frame is bad.")
    assert (shown["input rate (Hz)"], shown["output rate (Hz)"], shown["frames unusable"]) == (
        "10.0",
        "10.0",
        "1",
    )
    assert shown["latency p50 (ms)"] == f"{np.percentile(np.arange(10.0), 50):.1f}"
    second = report(diagnostics)
    assert (second.level, second.message) == (DiagnosticStatus.WARN, "no images on /camera")
    assert report(diagnostics, "inactive").level == DiagnosticStatus.OK
