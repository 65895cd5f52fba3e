#!/usr/bin/env python3
"""Grasp points from above for a parallel gripper, from the boxes of the depth node.

    ros2 run dino_ros grasp_points.py

Subscribes to /dino/objects_3d (vision_msgs/Detection3DArray) and publishes, for every object that fits between the
fingers, in the frame of the boxes:

    ~/grasps      geometry_msgs/PoseArray: where the fingertips meet; z is the approach, y from finger to finger
    ~/openings    std_msgs/Float32MultiArray: by how many meters to open the gripper for each of them

Parameters: `max_opening`, how far the gripper opens (meters); `depth`, how far below an object's top the fingertips
go; `name`, the only class to grasp, such as `cup`, or empty for all.
"""

from __future__ import annotations

import rclpy
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion
from rclpy.node import Node
from std_msgs.msg import Float32MultiArray
from vision_msgs.msg import BoundingBox3D, Detection3DArray

from dino_ros.depth.boxes import quaternion, rotation
from dino_ros.nodes.process import run

CLEARANCE = 0.01
"""Meters by which the gripper opens wider than the object."""


class GraspPoints(Node):
    """Publishes a grasp for each box of which it receives one that is narrow enough."""

    def __init__(self) -> None:
        super().__init__("grasp_points")
        self.declare_parameter("max_opening", 0.085)
        self.declare_parameter("depth", 0.03)
        self.declare_parameter("name", "")
        self.grasps = self.create_publisher(PoseArray, "~/grasps", 10)
        self.openings = self.create_publisher(Float32MultiArray, "~/openings", 10)
        self.create_subscription(Detection3DArray, "/dino/objects_3d", self.on_objects, 10)

    def on_objects(self, objects: Detection3DArray) -> None:
        """Publish the grasps of one frame."""
        max_opening, depth, name = (self.get_parameter(key).value for key in ("max_opening", "depth", "name"))
        boxes = [one.bbox for one in objects.detections if name in ("", one.results[0].hypothesis.class_id)]
        found = [(pose, opening) for pose, opening in (grasp(box, depth) for box in boxes) if opening <= max_opening]
        self.grasps.publish(PoseArray(header=objects.header, poses=[pose for pose, _ in found]))
        self.openings.publish(Float32MultiArray(data=[opening for _, opening in found]))


def grasp(box: BoundingBox3D, depth: float) -> tuple[Pose, float]:
    """Where to close the gripper on a box of the depth node, and how far to open it before, in meters.

    The box's z points away from what the object stands on, and y is the shorter of its other sides.
    """
    turn = box.center.orientation
    axes = rotation(turn.x, turn.y, turn.z, turn.w)
    at = box.center.position
    top = [at.x, at.y, at.z] + axes[:, 2] * box.size.z / 2
    tips = top - axes[:, 2] * min(depth, box.size.z / 2)
    gripper = axes * [1, -1, -1]  # z into the object, y along its shorter side: half a turn about x
    pose = Pose(
        position=Point(**dict(zip("xyz", tips.tolist(), strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", quaternion(gripper).tolist(), strict=True))),
    )
    return pose, box.size.y + CLEARANCE


def main() -> None:
    """Run the node until it is interrupted."""
    run("grasp_points", lambda: rclpy.spin(GraspPoints()))


if __name__ == "__main__":
    main()
