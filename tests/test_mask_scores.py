"""Scores of masks against slow ones, on scenes that are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from bags import encoded, write_topics
from outlines import slow_f

from dino_ros.demo.table import TABLE, TOPIC, TRUTH_TOPIC
from dino_ros.errors import UserError
from dino_ros.masks.parameters import ATTENTION, METHODS, MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_train.cli import run
from dino_train.evaluation.segmentation.labeled_images import VOID
from dino_train.evaluation.segmentation.mask_scores import (
    LabeledFrame,
    Tally,
    labeled_sequences,
    mask_scores,
    methods_of,
    motion,
    truth_scores,
)
from dino_train.evaluation.segmentation.object_matching import FOUND, match_objects

SHIFT = 4
"""Pixels that the scene moves from frame to frame."""


def slow_iou(mask: NDArray[np.bool_], objects: NDArray[np.uint8]) -> float:
    """Pixel by pixel."""
    both = either = 0
    for ours, number in zip(mask.ravel().tolist(), objects.ravel().tolist(), strict=True):
        if number != VOID:
            both += ours and number > 0
            either += ours or number > 0
    return both / either


def scene(count: int) -> list[LabeledFrame]:
    """A textured ground that moves to the right with a bright block on it, 20 frames a second."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 150, (96, 240, 3), np.uint8), (0, 0), 1.5)
    ground[24:72, 80:150] = (220, 60, 60)
    objects = np.zeros(ground.shape[:2], np.uint8)
    objects[24:72, 80:150] = 3
    frames = []
    for number in range(count):
        left = 60 - SHIFT * number
        view = slice(left, left + 128)
        frames.append(LabeledFrame(ground[:, view].copy(), objects[:, view].copy(), number * 50_000_000))
    return frames


def write_scene(folder: Path, count: int) -> Path:
    """As a video of DAVIS, whose frames are 2 apart."""
    for number, frame in enumerate(scene(count)):
        for part, pixels in (("images", frame.rgb[:, :, ::-1]), ("masks", (frame.objects > 0) * np.uint8(255))):
            (folder / part / "block").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / "block" / f"{2 * number:05d}.png"), pixels)
    return folder


def test_overlap_and_outline_are_slow_ones_and_leave_void_out() -> None:
    rng = np.random.default_rng(1)
    objects = np.zeros((30, 40), np.uint8)
    objects[5:20, 8:30] = 2
    objects[18:24, :] = VOID
    frame = LabeledFrame(np.zeros((30, 40, 3), np.uint8), objects, 0)
    mask = np.roll(objects > 0, 3, axis=1) | (rng.random(objects.shape) < 0.01)
    tally = Tally()
    tally.add(mask, frame, None)
    judged = objects != VOID
    assert tally.ious == pytest.approx([slow_iou(mask, objects)])
    assert tally.boundaries == pytest.approx([slow_f(mask & judged, (objects > 0) & judged)])
    tally.add(mask, LabeledFrame(frame.rgb, np.zeros_like(objects), 1), None)
    assert len(tally.ious) == 1, "a frame without objects does not count"


def test_steadiness_is_of_masks_that_move_with_the_image() -> None:
    frames = scene(10)
    origins = [motion(before, frame) for before, frame in zip([None, *frames], frames, strict=False)]
    assert origins[0] is None
    moving, standing, flickering = Tally(), Tally(), Tally()
    for number, (frame, origin) in enumerate(zip(frames, origins, strict=True)):
        moving.add(frame.objects > 0, frame, origin)
        standing.add(frames[0].objects > 0, frame, origin)
        flickering.add((frame.objects > 0) & (number % 2 == 0), frame, origin)
    assert len(moving.steadiness) == 9
    assert np.mean(moving.steadiness) > 0.95
    # A block of 70 pixels that lies 4 pixels off overlaps by 66 of 74.
    assert np.mean(standing.steadiness) == pytest.approx(66 / 74, abs=0.03)
    assert np.mean(flickering.steadiness) == 0


def test_frames_that_do_not_follow_each_other_have_no_motion() -> None:
    first, second = scene(2)
    assert motion(first, second) is not None
    for stamp in (0, 101_000_000, -1):
        assert motion(first, LabeledFrame(second.rgb, second.objects, stamp)) is None
    assert motion(first, LabeledFrame(second.rgb[:50], second.objects[:50], second.stamp)) is None


def test_every_layout_is_read(tmp_path: Path) -> None:
    (frames,) = map(list, labeled_sequences(write_scene(tmp_path / "davis", 3)))
    assert [round(frame.stamp / 1e9 * 24) for frame in frames] == [0, 2, 4]
    for frame, expected in zip(frames, scene(3), strict=True):
        np.testing.assert_array_equal(frame.rgb, expected.rgb)
        np.testing.assert_array_equal(frame.objects > 0, expected.objects > 0)

    topics = {
        "/image": [encoded("png", frame.rgb) for frame in scene(4)],
        "/mask": [encoded("png", np.dstack([frame.objects] * 3)) for frame in scene(3)],
    }
    bag = write_topics(tmp_path / "bag", topics)
    (in_bag,) = labeled_sequences(bag, "/mask", "/image")
    assert [frame.stamp for frame in in_bag] == [10**9, 11 * 10**8, 12 * 10**8], "a frame without mask is left out"
    with pytest.raises(UserError, match="--masks"):
        [list(frames) for frames in labeled_sequences(bag, topic="/image")]

    stills = labeled_sequences(tmp_path / "davis" / "images", str(tmp_path / "davis" / "masks"))
    assert [len(list(frames)) for frames in stills] == [1, 1, 1]
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("images", "masks"):
        (tmp_path / "davis" / part / "block").rename(flat / part)
    assert [len(list(frames)) for frames in labeled_sequences(flat)] == [1, 1, 1]


def test_scores_of_a_student_are_those_of_its_perceiver(student: Path) -> None:
    perceiver = Perceiver.load(student, "onnxruntime")
    assert methods_of(perceiver) == [method for method in METHODS if method != "foreground"]
    frames = scene(4)
    background = MaskParameters("background", steady=0.0)
    found = mask_scores(perceiver, [frames], [ATTENTION, background])
    for scores, parameters in zip(found, (ATTENTION, background), strict=True):
        masks = [perceiver(frame.rgb, ("mask",), parameters).mask > 0 for frame in frames]
        ious = [slow_iou(mask, frame.objects) for mask, frame in zip(masks, frames, strict=True)]
        assert scores.iou == pytest.approx(np.mean(ious))
        assert scores.frames == 4
    assert found[1].iou > found[0].iou, "the block is unlike its background"
    truth = truth_scores([frames])
    assert (truth.iou, truth.boundary) == (1, 1)
    assert 0.9 < truth.steadiness <= 1


def test_sequences_count_alike_however_long(student: Path) -> None:
    perceiver = Perceiver.load(student, "onnxruntime")
    frames = scene(6)
    blank = LabeledFrame(frames[0].rgb, np.zeros_like(frames[0].objects), 0)
    one, other = (mask_scores(perceiver, [part], [ATTENTION])[0].iou for part in (frames[:5], frames[5:]))
    both = mask_scores(perceiver, [frames[:5], frames[5:], [blank]], [ATTENTION])[0]
    assert both.iou == pytest.approx((one + other) / 2)
    assert both.frames == 7
    with pytest.raises(UserError, match="No frame has an object"):
        mask_scores(perceiver, [[blank]], [ATTENTION])


def test_objects_are_scored_where_frames_show_several(student: Path) -> None:
    perceiver = Perceiver.load(student, "onnxruntime")
    (frame,) = scene(1)
    cut_in_two = frame.objects.copy()
    cut_in_two[:, 55:] *= 2  # the block is at 20 to 90
    two = LabeledFrame(frame.rgb, cut_in_two, 0)
    background = MaskParameters("background", steady=0.0)
    plain, made = mask_scores(perceiver, [[two], [frame]], [ATTENTION, background])
    numbers = perceiver(frame.rgb, ("objects",), background).objects
    expected = [match_objects(numbers, one.objects) for one in (two, frame)]
    ious = np.concatenate([matching.ious for matching in expected])
    assert len(ious) == 3
    assert made.object_iou == pytest.approx(ious.mean())
    assert made.object_recall == np.mean(ious > FOUND)
    assert made.object_precision == np.sum(ious > FOUND) / sum(matching.found for matching in expected)
    assert np.isnan(plain.object_iou), "objects are not made of a plain mask"
    truth = truth_scores([[two], [frame]])
    assert truth.object_iou == pytest.approx((0.5 + 0 + 1) / 3), "two that touch are one part, which is half of each"
    assert (truth.object_recall, truth.object_precision) == (1 / 3, 1 / 2)
    assert np.isnan(mask_scores(perceiver, [[frame]], [background])[0].object_recall)


def test_the_command_scores_every_method_on_several_data(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = {
        "/image": [encoded("png", frame.rgb) for frame in scene(3)],
        "/mask": [encoded("png", np.dstack([frame.objects] * 3)) for frame in scene(3)],
    }
    data = [str(write_topics(tmp_path / "bag", topics)), str(write_scene(tmp_path / "davis", 3))]
    out = tmp_path / "scores.json"
    run(
        ["evaluate", "masks", str(student), "--data", *data, "--masks", "/mask", "--topic", "/image", "--out", str(out)]
    )
    rows = json.loads(out.read_text())["rows"]
    expected = ["ground truth", *(f"{m}{v}" for m in METHODS if m != "foreground" for v in ("", ", plain"))]
    assert [row["method"] for row in rows] == expected * 2
    assert {row["data"] for row in rows} == {"bag", "davis"}
    assert all(np.isnan(row["object_recall"]) for row in rows)
    printed = capsys.readouterr().out
    assert "steadiness" in printed
    assert "object_recall" not in printed, "no image shows several objects"


def test_the_table_students_default_is_better_than_the_papers_mask() -> None:
    perceiver = Perceiver.load("table_vit_micro_8", "onnxruntime")
    (frames,) = labeled_sequences(TABLE, TRUTH_TOPIC, TOPIC)
    default = MaskParameters().resolve(perceiver.info)
    some = [frame for number, frame in enumerate(frames) if number % 30 == 0]
    paper, ours = mask_scores(perceiver, [some], [ATTENTION, default])
    assert ours.iou > paper.iou + 0.1
    assert ours.boundary > paper.boundary + 0.1


@pytest.mark.parametrize("data", ["davis2016", "coco_objects"])
def test_the_default_student_sees_real_scenes(test_data: Path, data: str) -> None:
    """Its masks are those of the card, and far above what random weights or the paper's mask find."""
    perceiver = Perceiver.load()
    default = MaskParameters().resolve(perceiver.info)
    some = [frame for frames in labeled_sequences(test_data / data) for frame in list(frames)[::6]]
    paper, ours = mask_scores(perceiver, [[frame] for frame in some], [ATTENTION, default])
    assert ours.iou > paper.iou + 0.1
    assert ours.iou > 0.42
