"""Masks frame after frame: what is carried along, and what is not."""

import dataclasses
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import disc, render_scene

from dino_ros.errors import UserError
from dino_ros.masks.background import background_mask
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker, Masks, Outputs
from dino_ros.masks.motion import JUMP
from dino_ros.masks.parameters import ATTENTION, METHODS, MaskParameters

SIZE, GRID = (240, 320), (15, 20)
FRAME = 33_000_000
"""Nanoseconds."""
STEADY = MaskParameters("background")
ALONE = MaskParameters("background", steady=0.0)
GROUND = cv2.GaussianBlur(np.random.default_rng(9).integers(0, 256, (*SIZE, 3), dtype=np.uint8), (0, 0), 4)


def film(*tops_and_lefts: tuple[int, int], seed: int = 0, noise: float = 0.3) -> tuple[Outputs, NDArray, NDArray]:
    """A frame: the student's outputs, the image, and where its squares of 96 pixels are."""
    inside = np.zeros(SIZE, bool)
    image = GROUND.copy()
    for top, left in tops_and_lefts:
        square = np.s_[max(top, 0) : top + 96, max(left, 0) : left + 96]
        inside[square] = True
        image[square] = (220, 40, 40)
    patches = cv2.resize(inside.astype(np.float32), GRID[::-1], interpolation=cv2.INTER_AREA) > 0.5
    features, attention = render_scene(patches, seed, noise=noise)
    return {"features": features, "attention": attention}, image, inside


def make(maker: MaskMaker, frame: tuple[Outputs, NDArray, NDArray], stamp: int, mask: MaskParameters) -> Masks:
    """Mask and objects of a frame."""
    return maker(frame[0], SIZE, frame[1], stamp, mask, objects=True)


def flicker(masks: list[NDArray[np.uint8]]) -> float:
    """Share of the pixels that change from frame to frame."""
    return float(np.mean([(a != b).mean() for a, b in pairwise(masks)]))


@pytest.mark.parametrize(("method", "noise"), [("background", 1.8), ("normalized_cut", 0.95)])
def test_steady_masks_flicker_less_on_a_still_image(method: str, noise: float) -> None:
    frames = [film((64, 96), seed=seed, noise=noise) for seed in range(12)]
    made = {}
    for steady in (0.0, 0.5):
        maker, mask = MaskMaker(), MaskParameters(method, refine=False, steady=steady)
        made[steady] = [make(maker, frame, i * FRAME, mask).mask for i, frame in enumerate(frames)]
    assert flicker(made[0.0]) > 0.001
    assert flicker(made[0.5]) < 0.6 * flicker(made[0.0])
    alone, steady = (np.mean([jaccard(mask > 0, frames[0][2]) for mask in masks]) for masks in made.values())
    assert steady >= alone


def test_steady_masks_do_not_lag_behind_what_moves() -> None:
    frames = [film((64, 10 + 10 * step), seed=step) for step in range(13)]
    overlap = {}
    for steady in (0.0, 0.5):
        maker, mask = MaskMaker(), MaskParameters("background", refine=False, steady=steady)
        made = [make(maker, frame, i * FRAME, mask).mask for i, frame in enumerate(frames)]
        overlap[steady] = np.mean([jaccard(m > 0, frame[2]) for m, frame in zip(made, frames, strict=True)])
    assert overlap[0.0] > 0.9
    assert overlap[0.5] > overlap[0.0] - 0.01


def test_what_appears_and_what_leaves_does_so_at_once() -> None:
    maker = MaskMaker()
    for i, places in enumerate([[(20, 20)], [(20, 20)], [(20, 20), (130, 200)], [(130, 200)]]):
        frame = film(*places, seed=i)
        assert jaccard(make(maker, frame, i * FRAME, STEADY).mask > 0, frame[2]) > 0.93


@pytest.mark.parametrize("method", ["background", "normalized_cut", "lost", "attention"])
@pytest.mark.parametrize("jump", [JUMP + 1, -1])
def test_after_a_jump_all_starts_anew(method: str, jump: int) -> None:
    maker, mask = MaskMaker(), MaskParameters(method)
    for i in range(3):
        make(maker, film((20, 30), seed=i, noise=1.5), 5 * JUMP + i * FRAME, mask)
    frame = film((100, 180), seed=7, noise=1.5)
    after = make(maker, frame, 5 * JUMP + 2 * FRAME + jump, mask)
    fresh = make(MaskMaker(), frame, 0, mask)
    np.testing.assert_array_equal(after.mask, fresh.mask)
    assert not {*np.unique(after.objects)} & {*np.unique(fresh.objects)} - {0}  # nothing that was seen before


@pytest.mark.parametrize("method", ["background", "lost", "attention"])
def test_without_steady_each_frame_is_looked_at_alone(method: str) -> None:
    maker, mask = MaskMaker(), MaskParameters(method, steady=0.0)
    for i in range(4):
        frame = film((60, 60 + 9 * i), seed=i, noise=1.0)
        np.testing.assert_array_equal(make(maker, frame, i * FRAME, mask).mask, make(MaskMaker(), frame, 0, mask).mask)


def test_steady_does_carry_something() -> None:
    maker = MaskMaker()
    make(maker, film((60, 60), seed=0, noise=1.5), 0, STEADY)
    frame = film((60, 60), seed=1, noise=1.5)
    assert (make(maker, frame, FRAME, STEADY).mask != make(MaskMaker(), frame, 0, STEADY).mask).any()


def test_without_refinement_the_grid_is_interpolated_and_cut() -> None:
    frame = film((60, 60), noise=1.0)
    mask = dataclasses.replace(ALONE, refine=False)
    made = MaskMaker()(frame[0], SIZE, None, 0, mask)
    soft = background_mask(frame[0]["features"], frame[0]["attention"]).astype(np.float64)
    expected = np.zeros(SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            v = np.clip((y + 0.5) / SIZE[0] * GRID[0] - 0.5, 0, GRID[0] - 1)
            u = np.clip((x + 0.5) / SIZE[1] * GRID[1] - 0.5, 0, GRID[1] - 1)
            top, left = min(int(v), GRID[0] - 2), min(int(u), GRID[1] - 2)
            four = soft[top : top + 2, left : left + 2]
            expected[y, x] = [1 - v + top, v - top] @ four @ [1 - u + left, u - left]
    np.testing.assert_array_equal(
        made.mask[np.abs(expected - 0.5) > 1e-4] > 0, (expected > 0.5)[abs(expected - 0.5) > 1e-4]
    )
    assert made.objects is None


def test_refined_masks_are_nearer_to_the_object() -> None:
    frame = film((53, 61))
    refined, coarse = (make(MaskMaker(), frame, 0, dataclasses.replace(ALONE, refine=r)).mask for r in (True, False))
    assert jaccard(refined > 0, frame[2]) > max(0.95, jaccard(coarse > 0, frame[2]))


def test_only_the_largest_parts_are_kept() -> None:
    two = film((20, 20), (150, 250))
    both, one = (make(MaskMaker(), two, 0, dataclasses.replace(ALONE, components=count)) for count in (0, 1))
    assert {*np.unique(both.objects)} == {0, 1, 2}
    assert {*np.unique(one.objects)} == {0, 1}
    np.testing.assert_array_equal(one.objects == 1, both.objects == 1)
    seen = {"foreground": cv2.GaussianBlur(np.eye(9, dtype=np.float32), (0, 0), 1) * 2}
    foreground = MaskParameters("foreground", refine=False, steady=0.0)
    all_kept, first = (
        MaskMaker()(seen, SIZE, None, 0, dataclasses.replace(foreground, components=count)).mask for count in (0, 1)
    )
    assert all_kept.any()
    np.testing.assert_array_equal(first, all_kept)  # of a single part nothing is lost


def test_objects_keep_their_numbers_and_new_ones_get_new_ones() -> None:
    maker, numbers = MaskMaker(), (0, 0)
    for i in range(10):
        made = make(maker, film((10, 10 + 6 * i), (140, 200 - 6 * i), seed=i), i * FRAME, STEADY)
        before, numbers = numbers, (made.objects[58, 58 + 6 * i], made.objects[188, 248 - 6 * i])
        assert {*np.unique(made.objects)} == {0, 1, 2}
        assert i == 0 or numbers == before
        np.testing.assert_array_equal(made.objects > 0, made.mask > 0)
    for i in range(10, 14):
        made = make(maker, film((10, 64), (140, 146), (10, 210), seed=i), i * FRAME, STEADY)
    assert (made.objects[58, 112], made.objects[188, 194]) == numbers
    assert made.objects[58, 258] == 3


@pytest.mark.parametrize(("remember", "number"), [(0.0, 2), (30.0, 1)])
def test_objects_that_nobody_asked_for_in_between_are_new_unless_remembered(remember: float, number: int) -> None:
    maker, frame, mask = MaskMaker(), film((60, 60)), dataclasses.replace(STEADY, remember=remember)
    assert {*np.unique(make(maker, frame, 0, mask).objects)} == {0, 1}
    assert maker(frame[0], SIZE, frame[1], FRAME, mask).objects is None
    assert {*np.unique(make(maker, frame, 2 * FRAME, mask).objects)} == {0, number}


@pytest.mark.parametrize("size", [(120, 160), (240, 100), (1, 1), (9, 500), (480, 640)])
def test_an_image_of_another_size_in_between(size: tuple[int, int]) -> None:
    maker = MaskMaker()
    seen, image, _ = frame = film((60, 60))
    make(maker, frame, 0, STEADY)
    for i in (1, 2):
        other = maker(seen, size, cv2.resize(image, size[::-1]), i * FRAME, STEADY, objects=True)
        assert other.mask.shape == other.objects.shape == size
    again = make(maker, frame, 3 * FRAME, STEADY)
    assert again.mask.shape == SIZE
    assert jaccard(again.mask > 0, frame[2]) > 0.9


def test_a_student_with_another_grid_in_between() -> None:
    for method in ("background", "normalized_cut"):
        maker, mask = MaskMaker(), MaskParameters(method)
        frame = film((60, 60))
        make(maker, frame, 0, mask)
        seen = {"features": frame[0]["features"][::2, ::2], "attention": frame[0]["attention"][:, ::2, ::2]}
        assert jaccard(maker(seen, SIZE, frame[1], FRAME, mask).mask > 0, frame[2]) > 0.8


def test_the_foreground_head_is_taken_as_it_is() -> None:
    soft = np.random.default_rng(0).random(GRID).astype(np.float32)
    mask = MaskParameters("foreground", refine=False, steady=0.0)
    made = MaskMaker()({"foreground": soft}, GRID, None, 0, mask)
    np.testing.assert_array_equal(made.mask > 0, soft > 0.5)


@pytest.mark.parametrize(
    ("mask", "objects", "needed"),
    [
        (ATTENTION, False, False),
        (ATTENTION, True, True),
        (dataclasses.replace(ATTENTION, refine=True), False, True),
        (dataclasses.replace(ATTENTION, steady=0.1), False, True),
    ],
)
def test_the_image_is_asked_for_only_where_it_is_needed(mask: MaskParameters, objects: bool, needed: bool) -> None:
    assert mask.needs_image(objects) == needed
    if not needed:
        assert MaskMaker()(film((60, 60))[0], SIZE, None, 0, mask, objects).mask.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused_and_forgotten(method: str, value: float) -> None:
    maker, frame, mask = MaskMaker(), film((60, 60)), MaskParameters(method)
    seen = {**frame[0], "foreground": np.zeros(GRID, np.float32)}
    for name in METHODS[method]:
        broken = seen[name].copy()
        broken.flat[5] = value
        with pytest.raises(UserError, match=f"output {name} is not finite"):
            maker({**seen, name: broken}, SIZE, frame[1], 0, mask)
    assert {*np.unique(maker(seen, SIZE, frame[1], FRAME, mask).mask)} <= {0, 255}


def test_the_edges_of_large_images_are_followed_on_a_smaller_one() -> None:
    small, inside = disc((240, 320), gray=False)
    large = cv2.resize(small, (1920, 1440), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    grid = (cv2.resize(inside.astype(np.float32), (16, 12), interpolation=cv2.INTER_AREA) > 0.3).astype(np.float32)
    made = MaskMaker()({"foreground": grid}, large.shape[:2], large, 0, MaskParameters("foreground"))
    assert made.mask.shape == (1440, 1920)
    truth = cv2.resize(inside.astype(np.float32), (1920, 1440)) > 0.5
    coarse = cv2.resize(grid, (1920, 1440)) > 0.5
    assert 1 - jaccard(made.mask > 0, truth) < (1 - jaccard(coarse, truth)) / 3


@pytest.mark.parametrize("refine", [False, True])
def test_a_named_object_of_one_patch_has_a_number(refine: bool) -> None:
    """Its mask may be smaller than a patch, and is still the object that was found."""
    image = GROUND.copy()
    image[96:112, 160:176] = (220, 40, 40)
    soft, steps = np.zeros(GRID, np.float32), MaskParameters("background", refine=refine)
    soft[6, 10] = 1
    maker = MaskMaker()
    made = maker.make_named({"cup": soft}, maker.see(SIZE, image, 0, steps, True), steps, objects=True)["cup"]
    np.testing.assert_array_equal(made.objects == 1, made.mask > 0)
    assert made.objects.any()
