"""examples/policy_features.py, from a recording whose nearest object is a square to the errors that it prints."""

import runpy
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("torch")
pytest.importorskip("zarr")

from bags import encoded, write_topics
from imports import ROOT
from rosbags.typesys import Stores, get_typestore

from dino_ros import cli

TYPES = get_typestore(Stores.ROS2_JAZZY).types
FRAMES = 60


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "policy_features.py"))


def pose(x: float, y: float, z: float) -> Any:
    point, quaternion = TYPES["geometry_msgs/msg/Point"], TYPES["geometry_msgs/msg/Quaternion"]
    return TYPES["geometry_msgs/msg/Pose"](point(x, y, z), quaternion(0.0, 0.0, 0.0, 1.0))


def test_features_tell_where_the_nearest_object_is(
    example: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A white square is the nearest of two poses; the other is noise. Some frames have no pose at all."""
    rng = np.random.default_rng(0)
    images, poses = [], []
    for number in range(FRAMES):
        x, y = (int(rng.integers(0, side)) for side in (72, 48))
        image = np.full((72, 96, 3), (120, 60, 90), np.uint8)
        cv2.rectangle(image, (x, y), (x + 23, y + 23), (255, 255, 255), -1)
        both = [pose(*rng.uniform(-1, 1, 2), 2.0), pose(x / 100, y / 100, 1.0)]
        images.append(encoded("png", image))
        poses.append(("geometry_msgs/msg/PoseArray", (both[:: rng.choice([-1, 1])] if number % 10 else [],)))
    point = ("geometry_msgs/msg/PointStamped", (TYPES["geometry_msgs/msg/Point"](1.0, 2.0, 3.0),))
    bag = write_topics(tmp_path / "bag", {"/camera": images, "/poses": poses, "/point": [point] * FRAMES})
    out = tmp_path / "features.zarr"
    command = ["dino-ros", "features", str(bag), "--model", "table_vit_micro_8", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["policy_features.py", str(out), "--target", "/poses"])
    example["main"]()
    found = {line.split("cm")[1].strip(): float(line.split("cm")[0]) for line in capsys.readouterr().out.splitlines()}
    assert list(found) == ["always the mean", "pixels", "random ViT", "table_vit_micro_8.onnx"]
    # The mean distance of points of a rectangle of 72 x 48 cm from its middle is 23 cm.
    assert found["always the mean"] == pytest.approx(23, abs=4)
    assert found["table_vit_micro_8.onnx"] < 0.5 * found["always the mean"]

    monkeypatch.setattr(sys, "argv", ["policy_features.py", str(out), "--target", "/point"])
    with pytest.raises(SystemExit, match=r"/point of .* is no PoseArray"):
        example["main"]()
