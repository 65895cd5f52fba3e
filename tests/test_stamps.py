"""Stamps as nanoseconds and back."""

from types import SimpleNamespace

import pytest

from dino_ros.images.stamps import stamp_fields, stamp_ns


@pytest.mark.parametrize(
    ("sec", "nanosec", "nanoseconds"),
    [
        (0, 0, 0),
        (1, 5, 1_000_000_005),
        (1_700_000_000, 999_999_999, 1_700_000_000_999_999_999),
        (-3, 999_999_999, -2_000_000_001),
    ],
)
def test_a_stamp_is_its_nanoseconds(sec: int, nanosec: int, nanoseconds: int) -> None:
    message = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec)))
    assert stamp_ns(message) == nanoseconds
    assert stamp_fields(nanoseconds) == {"sec": sec, "nanosec": nanosec}
