"""What taught objects are measured by: the baselines find what they can find, and the scores are those of a count."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from taught_baselines import PointCosine, SiftObject, sift_points
from taught_real import best, class_scores, false_alarms

from dino_ros.masks.binary import jaccard
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.looks import look_at


def pattern(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)


def test_sift_carries_the_mask_to_where_the_object_is() -> None:
    first, mask = pattern(0), np.zeros((160, 200), np.uint8)
    mask[30:110, 20:100] = 1
    later, moved = pattern(1), np.roll(mask, (25, 60), (0, 1))
    later[moved > 0] = first[mask > 0]
    model = SiftObject(first, mask)
    assert jaccard(model(sift_points(later)), moved > 0) > 0.9
    assert not model(sift_points(pattern(2))).any()


def test_one_token_finds_what_is_like_it_at_the_threshold_that_fits_best() -> None:
    of_object, of_table = np.eye(8, dtype=np.float32)[:2]
    inside = np.zeros((10, 12), bool)
    inside[2:7, 3:8] = True
    features = np.where(inside[..., None], of_object, 0.7 * of_object + of_table).astype(np.float32)
    mask = inside.repeat(16, 0).repeat(16, 1)
    model = PointCosine(features, mask.astype(np.uint8))
    assert jaccard(model(features), mask) > 0.9
    assert jaccard(model(np.roll(features, 4, 1)), np.roll(mask, 64, 1)) > 0.9
    assert model.highest(features) == pytest.approx(1)
    assert model.highest(np.tile(of_table, (10, 12, 1))) == pytest.approx(0)


def test_scores_of_classes_are_counts() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.7], [0.3, 0.2]])
    truth = np.array([[True, False], [False, True], [False, False], [True, False]])
    row = class_scores(scores, truth, 0.5)
    assert (row["precision"], row["recall"], row["false alarms"]) == (2 / 4, 2 / 3, 2 / 5)
    assert row["F1"] == pytest.approx(4 / 7)
    first = (1 + (1 / 2 + 2 / 3) / 2) / 2  # ranks 1 and 3, by trapezoids
    assert row["mAP"] == pytest.approx((first + 1) / 2)
    assert class_scores(scores, truth, best(scores, truth))["F1"] == pytest.approx(4 / 5)


def test_an_object_counts_as_a_false_alarm_where_it_is_not(student: Path) -> None:
    perceiver = Perceiver.load(student)
    rgb = pattern(0)
    features = perceiver(rgb, ["features"]).features
    mask = np.zeros((160, 200), np.uint8)
    mask[40:120, 60:140] = 1
    looks = {"cup": [look_at(features, rgb, mask)]}
    frames = [(rgb, "cup"), (rgb, ""), (np.full_like(rgb, 127), "")]
    row = false_alarms(perceiver, looks, frames)
    assert row["frames"] == 3
    assert row["by name"] == {"cup": pytest.approx(1 / 2)}
