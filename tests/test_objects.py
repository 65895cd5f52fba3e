"""Numbers of objects against scipy's labels, from frame to frame."""

import numpy as np
import pytest

pytest.importorskip("scipy")

import scipy.ndimage
from numpy.typing import NDArray
from scenes import rectangle

from dino_ros.masks.boxes import boxes
from dino_ros.masks.objects import LARGEST_NUMBER, OVERLAP, number_objects


def mask_of(*rectangles: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A mask [60, 80] of rectangles: top, left, bottom, right."""
    return 255 * np.logical_or.reduce([rectangle(60, 80, *r) for r in rectangles]).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("smallest", [1, 6, 40])
def test_each_large_part_has_a_number_of_its_own(seed: int, smallest: float) -> None:
    mask = (np.random.default_rng(seed).random((40, 50)) < 0.3).astype(np.uint8) * 255
    numbers, following = number_objects(mask, smallest, None, 1)
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    areas = scipy.ndimage.sum_labels(mask > 0, labels, range(1, count + 1))
    assert numbers.dtype == np.uint16
    for part, area in enumerate(areas, start=1):
        inside = np.unique(numbers[labels == part])
        assert len(inside) == 1
        assert (inside[0] > 0) == (area >= smallest)
    kept = int((areas >= smallest).sum())
    assert {*np.unique(numbers)} - {0} == {*range(1, kept + 1)}
    assert following == kept + 1
    by_number = [(numbers == number).sum() for number in range(1, kept + 1)]
    assert by_number == sorted(by_number, reverse=True)
    assert not numbers[mask == 0].any()


def test_nothing_is_no_object() -> None:
    for before in (None, np.zeros((6, 8), np.uint16), np.full((6, 8), 3, np.uint16)):
        numbers, following = number_objects(np.zeros((60, 80), np.uint8), 1, before, 9)
        assert not numbers.any()
        assert following == 9


def test_parts_keep_their_numbers_and_new_ones_get_new_numbers() -> None:
    before, following = number_objects(mask_of((10, 10, 30, 30), (35, 50, 50, 70)), 1, None, 1)
    now, following = number_objects(mask_of((12, 13, 32, 33), (33, 52, 48, 72), (0, 60, 5, 66)), 1, before, following)
    assert (now[20, 20], now[40, 60], now[2, 62]) == (before[20, 20], before[40, 60], 3)
    # One leaves and another comes: its number is not given again.
    after, following = number_objects(mask_of((14, 15, 34, 35), (50, 10, 58, 18)), 1, now, following)
    assert (after[20, 20], after[54, 14], following) == (before[20, 20], 4, 5)


@pytest.mark.parametrize("moved", range(0, 20, 3))
def test_the_overlap_decides(moved: int) -> None:
    before, following = number_objects(mask_of((10, 10, 30, 30)), 1, None, 1)
    now, _ = number_objects(mask_of((10, 10 + moved, 30, 30 + moved)), 1, before, following)
    same = (20 - moved) / (20 + moved) > OVERLAP
    assert {*np.unique(now)} - {0} == ({1} if same else {2})


def test_a_part_that_breaks_leaves_its_number_to_the_piece_most_like_it() -> None:
    before, following = number_objects(mask_of((10, 10, 30, 70)), 1, None, 1)
    now, _ = number_objects(mask_of((10, 10, 30, 35), (10, 36, 30, 70)), 1, before, following)
    assert (now[20, 50], now[20, 20]) == (1, 2)
    # And of two that become one the larger goes on.
    joined, _ = number_objects(mask_of((10, 10, 30, 70)), 1, now, 3)
    assert {*np.unique(joined)} == {0, 1}


def test_the_frame_before_may_be_smaller() -> None:
    mask = mask_of((10, 10, 30, 30), (36, 50, 50, 70))
    before = np.zeros((30, 40), np.uint16)
    before[5:15, 5:15], before[18:25, 25:35] = 500, 70
    numbers, following = number_objects(mask, 1, before, 9)
    assert (numbers[20, 20], numbers[40, 60], following) == (500, 70, 9)


def test_numbers_start_again_after_the_largest_past_those_in_use() -> None:
    before = np.zeros((60, 80), np.uint16)
    before[10:30, 10:30], before[35:50, 50:70] = 1, LARGEST_NUMBER
    mask = mask_of((10, 10, 30, 30), (35, 50, 50, 70), (0, 60, 5, 66), (50, 0, 56, 5))
    numbers, following = number_objects(mask, 1, before, LARGEST_NUMBER)
    assert (numbers[20, 20], numbers[40, 60]) == (1, LARGEST_NUMBER)
    assert {numbers[2, 62], numbers[53, 2]} == {2, 3}
    assert following == 4


def test_more_parts_than_numbers() -> None:
    mask = np.zeros((512, 518), np.uint8)
    mask[::2, ::2] = 1  # 66,304 parts
    mask[0, :3] = 1
    numbers, _ = number_objects(mask, 1, None, 1)
    used, counts = np.unique(numbers[numbers > 0], return_counts=True)
    assert len(used) == LARGEST_NUMBER
    assert counts.max() == 3  # the one part of three pixels; none is shared
    assert (counts > 1).sum() == 1


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_never_shared_in_a_long_random_film(seed: int) -> None:
    rng = np.random.default_rng(seed)
    following, before, places = LARGEST_NUMBER - 20, None, rng.integers(0, 60, (12, 2))
    for _ in range(40):
        places = np.clip(places + rng.integers(-4, 5, places.shape), 0, [50, 70])
        mask = mask_of(*((y, x, y + 8, x + 8) for y, x in places.tolist()))
        numbers, following = number_objects(mask, 20, before, following)
        labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        held = [np.unique(numbers[labels == part]).tolist() for part in range(1, count + 1)]
        assert all(len(own) == 1 for own in held)
        assert len({own[0] for own in held}) == count
        assert [0] not in held
        before = numbers


def test_boxes_against_a_loop() -> None:
    numbers, _ = number_objects((np.random.default_rng(2).random((30, 40)) < 0.3).astype(np.uint8), 3, None, 40)
    expected: dict[int, tuple[int, int, int, int]] = {}
    for y, x in np.argwhere(numbers):
        left, top, right, bottom = expected.get(int(numbers[y, x]), (x, y, x, y))
        expected[int(numbers[y, x])] = (min(left, x), min(top, y), max(right, x), max(bottom, y))
    assert len(expected) > 5
    assert boxes(numbers) == {n: (x, y, u - x + 1, v - y + 1) for n, (x, y, u, v) in expected.items()}
    assert boxes(np.zeros((3, 4), np.uint16)) == {}


def test_the_message_of_boxes() -> None:
    pytest.importorskip("vision_msgs", reason="vision_msgs is not installed")
    from std_msgs.msg import Header

    from dino_ros.nodes.detections import detections_message, label_info_message

    objects = np.zeros((60, 80), np.uint16)
    objects[10:30, 40:50] = 70
    message = detections_message(objects, Header(frame_id="camera"))
    assert message.header.frame_id == "camera"
    (detection,) = message.detections
    assert (detection.id, detection.header.frame_id) == ("70", "camera")
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (45, 20)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (10, 20)
    (result,) = detection.results
    info = label_info_message(Header())
    names = {str(known.class_id): known.class_name for known in info.class_map}
    assert names[result.hypothesis.class_id] == "object"
    assert info.threshold <= result.hypothesis.score <= 1
