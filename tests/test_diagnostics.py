"""What the node reports about the frames it receives."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus

from dino_ros.nodes.diagnostics import WARNED_FOR, Diagnostics
from dino_ros.nodes.matching import Silence

VGA, SMALL = 640 * 480 * 3, 320 * 240


class Clock:
    """Stands still until it is told to go on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("dino_ros.nodes.diagnostics.monotonic", clock)
    return clock


def report(
    diagnostics: Diagnostics, state: str = "active", wanted: bool = True, **wrong: str | Silence
) -> DiagnosticStatus:
    return diagnostics.report("/dino/perception: perception", state, 1.0, wanted, {"image topic": "/camera"}, **wrong)


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
    second = {pair.key: pair.value for pair in report(diagnostics).values}
    assert (second["input rate (Hz)"], second["frames received"], second["frames unusable"]) == ("0.0", "10", "1")
    assert "latency p50 (ms)" not in second


def test_a_bad_frame_is_warned_of_for_ten_seconds_after_the_last_one(clock: Clock) -> None:
    diagnostics = Diagnostics()
    diagnostics.problem("The first is bad.")
    diagnostics.published(0.01)
    clock.now += WARNED_FOR - 1
    diagnostics.problem("The second is bad.")
    diagnostics.published(0.01)
    for _ in range(2):  # it is not taken away by being shown
        clock.now += (WARNED_FOR - 1) / 2
        status = report(diagnostics)
        assert (status.level, status.message) == (DiagnosticStatus.WARN, "The second is bad.")
    clock.now += 1
    assert report(diagnostics).level == DiagnosticStatus.OK


def test_bad_frames_alone_are_an_error(clock: Clock) -> None:
    """As from a camera whose encoding is not understood, or a GPU that has gone."""
    diagnostics = Diagnostics()
    levels = []
    for _ in range(int(WARNED_FOR) + 1):
        diagnostics.problem("No frame of this camera can be used.")
        levels.append(report(diagnostics).level)
        clock.now += 1
    assert levels == [DiagnosticStatus.WARN] * int(WARNED_FOR) + [DiagnosticStatus.ERROR]
    diagnostics.subscribed()  # after a while in which nobody wanted its frames
    diagnostics.problem("A frame is bad.")
    assert report(diagnostics).level == DiagnosticStatus.WARN


def test_a_usable_frame_between_bad_ones_makes_them_no_error(clock: Clock) -> None:
    diagnostics = Diagnostics()
    for _ in range(2 * int(WARNED_FOR)):
        diagnostics.problem("A frame is bad.")
        diagnostics.published(0.01)
        assert report(diagnostics).level == DiagnosticStatus.WARN
        clock.now += 1


@pytest.mark.parametrize("superseded", [0, 10, 11, 60])
def test_superseded_frames_are_warned_of_while_they_are_many(clock: Clock, superseded: int) -> None:
    diagnostics = Diagnostics()
    for _ in range(300):  # long ago the student kept up
        diagnostics.published(0.01)
    for _ in range(100 - superseded):
        diagnostics.published(0.01)
    for _ in range(superseded):
        diagnostics.superseded()
    status = report(diagnostics)
    assert ("max_rate" in status.message) == (status.level == DiagnosticStatus.WARN) == (superseded > 10)
    clock.now += WARNED_FOR
    assert report(diagnostics).level == DiagnosticStatus.OK


def test_a_camera_that_was_there_is_stale_when_it_is_gone() -> None:
    diagnostics = Diagnostics()
    gone, unfit = Silence("Nobody publishes on /camera.", False), Silence("/camera has another type.", True)
    assert report(diagnostics, silence=gone).level == DiagnosticStatus.WARN
    diagnostics.received(SMALL)
    assert report(diagnostics).level == DiagnosticStatus.OK
    status = report(diagnostics, silence=gone)
    assert (status.level, status.message) == (DiagnosticStatus.STALE, "Nobody publishes on /camera.")
    assert report(diagnostics, silence=unfit).level == DiagnosticStatus.ERROR


def test_silence_counts_from_the_last_frame_or_the_subscription(clock: Clock) -> None:
    diagnostics = Diagnostics()
    clock.now += 60  # nobody wanted its frames
    diagnostics.subscribed()
    clock.now += 3
    assert diagnostics.silent_for() == 3
    diagnostics.received(SMALL)
    assert diagnostics.silent_for() == 0


def test_the_worst_is_said_first() -> None:
    diagnostics = Diagnostics()
    assert report(diagnostics, wanted=False).message == "active, no subscribers: not subscribed to the camera"
    wrong: dict[str, str | Silence] = {"mismatch": "/dino/objects: the QoS does not match."}
    assert report(diagnostics, wanted=False, **wrong).level == DiagnosticStatus.WARN
    diagnostics.problem("A frame is bad.")
    status = report(diagnostics, **wrong)
    assert status.message == "A frame is bad."
    shown = {pair.key: pair.value for pair in status.values}
    assert shown["topics that do not fit"] == "/dino/objects: the QoS does not match."
    wrong["silence"] = Silence("Nobody publishes on /camera.", False)
    assert report(diagnostics, **wrong).message == "Nobody publishes on /camera."
    wrong["failure"] = "There is no student."
    status = report(diagnostics, **wrong)
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "There is no student.")
