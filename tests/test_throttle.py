"""Which frames pass."""

import numpy as np
import pytest

from dino_ros.nodes.throttle import Throttle


@pytest.mark.parametrize("decimation", [1, 2, 5])
def test_one_of_so_many_passes(decimation: int) -> None:
    throttle = Throttle(decimation=decimation)
    passed = [number for number in range(20) if throttle.lets_pass(number / 30)]
    assert passed == list(range(0, 20, decimation))


@pytest.mark.parametrize("max_rate", [5.0, 10.0, 20.0, 29.0, 30.0, 100.0])
def test_the_rate_is_kept_and_nearly_reached_by_an_irregular_camera(max_rate: float) -> None:
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(3000) / 30 + rng.normal(0, 0.004, 3000))
    throttle = Throttle(max_rate=max_rate)
    passed = np.array([time for time in times if throttle.lets_pass(time)])
    expected = min(max_rate, 30.0) * 100
    assert expected * 0.95 <= len(passed) <= expected + 2
    # In any second, too, beside the one frame that jitter may bring forward.
    starts = np.arange(0, 99)
    assert max(np.count_nonzero((passed >= s) & (passed < s + 1)) for s in starts) <= max_rate + 2


def test_a_pause_earns_no_burst() -> None:
    throttle = Throttle(max_rate=10.0)
    assert throttle.lets_pass(0.0)
    passed = [time for time in np.arange(60.0, 61.0, 0.01) if throttle.lets_pass(time)]
    assert len(passed) <= 11


def test_changes_hold_at_once() -> None:
    throttle = Throttle()
    assert [throttle.lets_pass(t / 30) for t in range(3)] == [True] * 3
    throttle.max_rate = 1.0
    assert sum(throttle.lets_pass(1 + t / 30) for t in range(60)) == 2
    throttle.max_rate, throttle.decimation = 0.0, 3
    assert sum(throttle.lets_pass(5 + t / 30) for t in range(30)) == 10


@pytest.mark.parametrize("low", [0.001, 5e-324])
def test_a_higher_rate_does_not_wait_for_the_end_of_a_low_ones_period(low: float) -> None:
    throttle = Throttle(max_rate=low)
    assert throttle.lets_pass(0.0)
    assert not throttle.lets_pass(1.0)
    throttle.max_rate = 10.0
    assert sum(throttle.lets_pass(2 + t / 30) for t in range(30)) in (9, 10)
