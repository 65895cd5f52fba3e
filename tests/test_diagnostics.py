"""What the node reports about the frames it receives."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus

from dino_ros.nodes.diagnostics import Diagnostics

VGA, SMALL = 640 * 480 * 3, 320 * 240


def report(diagnostics: Diagnostics, state: str = "active") -> DiagnosticStatus:
    return diagnostics.report("/dino/perception: perception", state, 1.0, True, {"image topic": "/camera"})


@pytest.mark.parametrize(("size", "advice"), [(VGA, "0.9 MB"), (SMALL, "reliability")])
@pytest.mark.parametrize("lost", [0, 5, 30, 90])
def test_many_lost_frames_cause_a_warning(lost: int, size: int, advice: str) -> None:
    diagnostics = Diagnostics()
    for _ in range(300):  # long ago nothing was lost
        diagnostics.received(size)
    for _ in range(5):
        diagnostics.lost(lost // 5)
        for _ in range(20 - lost // 5):
            diagnostics.received(size)
    assert diagnostics.lost_in_transport() == pytest.approx(lost / 100)
    status = report(diagnostics)
    assert (advice in status.message) == (status.level == DiagnosticStatus.WARN) == (lost > 10)
    assert {pair.key: pair.value for pair in status.values}["frames lost before the node (%)"] == str(lost)


def test_where_no_frame_ever_came_its_size_is_unknown() -> None:
    diagnostics = Diagnostics()
    diagnostics.lost(30)
    message = report(diagnostics).message
    assert "100%" in message
    assert "MB" not in message


def test_a_few_frames_say_nothing_about_the_transport() -> None:
    diagnostics = Diagnostics()
    diagnostics.received(VGA)
    diagnostics.lost(5)
    assert report(diagnostics).level == DiagnosticStatus.OK


def test_report_counts_since_the_last_one() -> None:
    diagnostics = Diagnostics()
    for number in range(10):
        diagnostics.received(SMALL)
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
