"""Taught on rendered tables, found on others: with the bundled student, whose features know such tables."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pybullet")
pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from tables import NAMES, tables
from taught import by_mask, find, first_views, scores

from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.looks import look_at
from dino_train.evaluation.segmentation.taught_objects import patch_tokens


def test_objects_of_one_table_are_found_on_others_and_not_where_they_are_not() -> None:
    perceiver = Perceiver.load("table_vit_micro_8")
    shown = list(tables(12, 1))
    looks = {}
    for name, (first, *_) in ((name, views) for name, views in first_views(shown, 1).items() if views):
        features = patch_tokens(perceiver, shown[first].rgb)
        looks[name] = [look_at(features, shown[first].rgb, by_mask(shown[first], name, features))]
    assert len(looks) > len(NAMES) / 2
    answers, _ = find(looks, [(table, patch_tokens(perceiver, table.rgb)) for table in tables(8, 2)])
    found = scores(answers)
    assert found["F1"] > 0.85
    assert found["false alarms"] < 0.1
    assert found["IoU"] > 0.6
