"""Objects in meters as messages: a cloud of their points, and their boxes if vision_msgs is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from dino_ros.depth.boxes import Box
from dino_ros.nodes.detections import SCORE, vision

CLOUD = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("object", "<u4")])
"""A point of the cloud: meters; the color as PCL and rviz pack it; the number of the object."""
FIELDS = [
    PointField(name=name, offset=4 * place, datatype=kind, count=1)
    for place, (name, kind) in enumerate(
        {
            "x": PointField.FLOAT32,
            "y": PointField.FLOAT32,
            "z": PointField.FLOAT32,
            "rgb": PointField.FLOAT32,  # as PCL declares packed colors
            "object": PointField.UINT32,
        }.items()
    )
]
GRAY = 128
"""Level of the points' color where the camera's image is not known."""


@dataclass(frozen=True, eq=False)
class ObjectIn3D:
    """An object as it is published."""

    number: int
    name: str
    """Of its class."""
    xyz: NDArray[np.float32]
    """Its points [N, 3], meters."""
    rgb: NDArray[np.uint8] | None
    """Their colors [N, 3]."""
    box: Box


def cloud_message(objects: Sequence[ObjectIn3D], header: Header) -> PointCloud2:
    """The points of all objects, one row, without holes."""
    points = np.empty(sum(len(one.xyz) for one in objects), CLOUD)
    start = 0
    for one in objects:
        part = points[start : start + len(one.xyz)]
        part["x"], part["y"], part["z"] = one.xyz.T
        part["rgb"] = GRAY * 0x010101 if one.rgb is None else one.rgb.astype(np.uint32) @ [0x010000, 0x0100, 1]
        part["object"] = one.number
        start += len(part)
    message = PointCloud2(header=header, height=1, width=len(points), fields=FIELDS, is_bigendian=False, is_dense=True)
    message.point_step, message.row_step = CLOUD.itemsize, points.nbytes
    message.data = points.tobytes()
    return message


def detections_3d_message(objects: Sequence[ObjectIn3D], header: Header) -> Any:
    """A Detection3DArray with the box of every object, whose number is its `id` and whose name is its class."""
    message = vision.Detection3DArray(header=header)
    for one in objects:
        pose = Pose(
            position=Point(**dict(zip("xyz", one.box.center.tolist(), strict=True))),
            orientation=Quaternion(**dict(zip("xyzw", one.box.quaternion().tolist(), strict=True))),
        )
        detection = vision.Detection3D(header=header, id=str(one.number))
        detection.bbox.center = pose
        detection.bbox.size = Vector3(**dict(zip("xyz", one.box.size.tolist(), strict=True)))
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = one.name, SCORE
        result.pose.pose = pose
        detection.results.append(result)
        message.detections.append(detection)
    return message
