"""The cropping of examples/crop_objects.py, without the cv_bridge and message_filters that its node uses."""

import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imports import ROOT

pytest.importorskip("rclpy")


@pytest.fixture
def crops(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    unused = {
        "cv_bridge": SimpleNamespace(CvBridge=None),
        "message_filters": SimpleNamespace(Subscriber=None, TimeSynchronizer=None),
    }
    for name, module in unused.items():
        monkeypatch.setitem(sys.modules, name, module)
    function: Callable[..., Any] = runpy.run_path(str(ROOT / "examples" / "crop_objects.py"))["crops"]
    return function


def test_every_object_is_cropped_to_its_pixels(crops: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    objects = np.zeros((40, 60), np.uint16)
    objects[5:12, 50:60] = 3
    objects[30:40, 0:7] = 65_000
    objects[20, 33] = 8
    for number, crop in crops(image, objects).items():
        rows, columns = np.nonzero(objects == number)
        np.testing.assert_array_equal(crop, image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    assert sorted(crops(image, objects)) == [3, 8, 65_000]


def test_a_frame_without_objects_has_no_crops(crops: Callable[..., Any]) -> None:
    assert crops(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint16)) == {}
