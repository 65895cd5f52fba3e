"""The grasps of examples/grasp_points.py: between the fingers is the object, above it the hand."""

import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imports import ROOT
from solids import CAMERA, cuboid, looking_down, seen, table

pytest.importorskip("rclpy")

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3

from dino_ros.depth.boxes import Box, rotation
from dino_ros.depth.objects import locate
from dino_ros.depth.surface import Surface
from dino_ros.nodes.detections import vision

FILE = str(ROOT / "examples" / "grasp_points.py")


def message(box: Box) -> Any:
    """The fields of a vision_msgs/BoundingBox3D."""
    center = Pose(
        position=Point(**dict(zip("xyz", box.center.tolist(), strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", box.quaternion().tolist(), strict=True))),
    )
    return SimpleNamespace(center=center, size=Vector3(**dict(zip("xyz", box.size.tolist(), strict=True))))


def test_the_fingers_close_on_the_shorter_side_from_above(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = SimpleNamespace(BoundingBox3D=None, Detection3DArray=None)
    monkeypatch.setitem(sys.modules, "vision_msgs", SimpleNamespace(msg=unused))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", unused)
    grasp: Callable[..., Any] = runpy.run_path(FILE)["grasp"]
    view, yaw = looking_down(60), 0.6
    center, size = np.array([0.02, -0.03, 0.04]), np.array([0.16, 0.06, 0.08])
    depth, numbers = seen(table(view), cuboid(view, center, size, yaw))
    ((found,),) = locate(Surface(depth, CAMERA), [numbers])
    pose, opening = grasp(message(found.box), 0.03)
    turn, at = pose.orientation, pose.position
    axes = view.rotation.T @ rotation(turn.x, turn.y, turn.z, turn.w)
    tips = view.rotation.T @ (np.array([at.x, at.y, at.z]) - view.translation)
    np.testing.assert_allclose(tips, [0.02, -0.03, 0.08 - 0.03], atol=0.006)
    np.testing.assert_allclose(axes[:, 2], [0, 0, -1], atol=0.02)
    np.testing.assert_allclose(np.abs(axes[:2, 1] @ [-np.sin(yaw), np.cos(yaw)]), 1, atol=0.01)
    assert np.linalg.det(axes) == pytest.approx(1)
    assert opening == pytest.approx(0.07, abs=0.01)


@pytest.mark.skipif(not vision, reason="vision_msgs is not installed")
def test_only_what_fits_and_is_named_is_grasped(ros: None) -> None:
    module = runpy.run_path(FILE)
    node = module["GraspPoints"]()
    published: dict[str, Any] = {}
    node.grasps.publish = lambda message: published.update(grasps=message)
    node.openings.publish = lambda message: published.update(openings=message)
    objects = vision.Detection3DArray()
    for name, width in (("cup", 0.06), ("cup", 0.2), ("object", 0.05)):
        detection = vision.Detection3D()
        detection.bbox.center.orientation.w = 1.0
        detection.bbox.size = Vector3(x=0.3, y=width, z=0.1)
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id = name
        detection.results.append(result)
        objects.detections.append(detection)
    node.on_objects(objects)
    assert list(published["openings"].data) == pytest.approx([0.07, 0.06])
    node.set_parameters([module["rclpy"].parameter.Parameter("name", value="cup")])
    node.on_objects(objects)
    assert list(published["openings"].data) == pytest.approx([0.07])
    assert len(published["grasps"].poses) == 1
    node.destroy_node()
