"""Masks and depth images that belong together, in whatever order they come."""

from typing import Any

import numpy as np

from dino_ros.depth.pairing import DEPTHS_KEPT, FRAMES_KEPT, JUMP, Pairing
from dino_ros.images.stamps import SECOND

MS = SECOND // 1000


def given(frames: list[Any]) -> list[tuple[int, set[str], Any]]:
    return [(frame.stamp // MS, set(frame.masks), frame.depth) for frame in frames]


def test_late_masks_get_the_nearest_depth_each_once() -> None:
    rng = np.random.default_rng(0)
    for latency in (0, 40, 400, 1500):
        pairing: Pairing[int, int] = Pairing(50 * MS)
        depths = (np.arange(0, 4000, 33) + rng.integers(-8, 9, 122)).tolist()
        masks = np.arange(0, 4000, 100).tolist()
        events = [(at, 0, at) for at in depths] + [(at + latency, 1, at) for at in masks]
        frames = []
        for _, is_mask, stamp in sorted(events):
            if is_mask:
                frames += pairing.add_mask("", stamp * MS, stamp)
            else:
                frames += pairing.add_depth(stamp * MS, stamp)
        expected = [(stamp, {""}, min(depths, key=lambda at: abs(at - stamp))) for stamp in masks]
        assert given(frames) == expected


def test_a_mask_waits_until_no_later_depth_can_be_nearer() -> None:
    pairing: Pairing[str, str] = Pairing(50 * MS)
    assert not pairing.add_depth(80 * MS, "before")
    assert not pairing.add_mask("", 100 * MS, "mask")
    assert given(pairing.add_depth(110 * MS, "after")) == [(100, {""}, "after")]
    assert not pairing.add_mask("", 100 * MS, "mask again")


def test_depth_that_is_too_far_in_time_is_none_and_its_distance_told() -> None:
    pairing: Pairing[str, str] = Pairing(50 * MS)
    pairing.add_depth(0, "old")
    pairing.add_mask("", 100 * MS, "mask")
    (frame,) = pairing.add_mask("", 200 * MS, "next")
    assert frame.depth is None
    assert frame.depth_is == -100 * MS
    (frame,) = Pairing[str, str](50 * MS).add_mask("", 0, "first") or pairing.add_depth(201 * MS, "new")
    assert (frame.stamp, frame.depth) == (200 * MS, "new")


def test_masks_that_came_with_the_last_frame_are_waited_for() -> None:
    pairing: Pairing[str, str] = Pairing(50 * MS)
    for stamp in (0, 33, 66, 100, 200):
        pairing.add_depth(stamp * MS, f"depth {stamp}")
    pairing.add_mask("", 0, "objects")
    pairing.add_mask("cup", 0, "comes after its frame")  # nobody knew that it would
    assert not pairing.add_mask("", 33 * MS, "objects")
    assert given(pairing.add_mask("cup", 33 * MS, "cup")) == [(33, {"", "cup"}, "depth 33")]
    assert not pairing.add_mask("cup", 66 * MS, "cup")
    # `cup` has a later one: what it does not have for 66 ms will not come.
    assert given(pairing.add_mask("", 66 * MS, "objects")) == [(66, {"", "cup"}, "depth 66")]
    assert not pairing.add_mask("", 100 * MS, "objects")
    assert given(pairing.add_mask("", 200 * MS, "objects")) == [(100, {""}, "depth 100"), (200, {""}, "depth 200")]


def test_what_is_kept_is_bounded() -> None:
    pairing: Pairing[int, int] = Pairing(10**6 * SECOND)
    frames = []
    for stamp in range(3 * DEPTHS_KEPT):
        pairing.add_depth(stamp, stamp)
    assert len(pairing._depths) == DEPTHS_KEPT
    for stamp in range(3 * DEPTHS_KEPT, 3 * DEPTHS_KEPT + 3 * FRAMES_KEPT):
        frames += pairing.add_mask("", stamp, stamp)
        assert len(pairing._frames) <= FRAMES_KEPT
    assert [frame.stamp for frame in frames] == [*range(3 * DEPTHS_KEPT, 3 * DEPTHS_KEPT + 2 * FRAMES_KEPT)]


def test_a_recording_that_starts_over_is_no_late_frame() -> None:
    pairing: Pairing[str, str] = Pairing(50 * MS)
    pairing.add_depth(100 * SECOND, "depth")
    assert len(pairing.add_mask("", 100 * SECOND, "mask")) == 1
    start = 100 * SECOND - 2 * JUMP
    assert not pairing.add_mask("", start, "mask")
    assert [frame.depth for frame in pairing.add_depth(start + MS, "first")] == ["first"]
