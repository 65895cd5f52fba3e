"""Targets in a bag's topic by name, and the nearest stamps, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import write_bag, write_topics
from rosbags.typesys import Stores, get_typestore

from dino_ros.errors import UserError
from dino_train.evaluation.probing.bag_targets import nearest, read_targets

TYPES = get_typestore(Stores.ROS2_JAZZY).types


def pose(x: float, y: float = 0.0, w: float = 1.0) -> Any:
    point, quaternion = TYPES["geometry_msgs/msg/Point"], TYPES["geometry_msgs/msg/Quaternion"]
    return TYPES["geometry_msgs/msg/Pose"](point(x, y, 2.0), quaternion(0.6, 0.0, 0.0, w))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_poses_that_come_and_go_are_summarized(tmp_path: Path, storage: str) -> None:
    messages = [
        ("geometry_msgs/msg/PoseArray", ([pose(x, y) for x, y in places],))
        for places in ([(1.0, 5.0), (3.0, -5.0)], [], [(4.0, 0.5)])
    ]
    bag = write_topics(tmp_path / ("a.bag" if storage == "ros1" else "a"), {"/poses": messages}, storage)
    targets = read_targets(bag, "/poses")
    assert targets.stamps.tolist() == [1_000_000_000, 1_100_000_000, 1_200_000_000]
    expected = {
        "poses.count": [2, 0, 1],
        "poses.mean.position.x": [2, np.nan, 4],
        "poses.min.position.x": [1, np.nan, 4],
        "poses.max.position.x": [3, np.nan, 4],
        "poses.min.position.y": [-5, np.nan, 0.5],
        "poses.0.position.y": [5, np.nan, 0.5],
        "poses.1.position.x": [3, np.nan, np.nan],
        "poses.0.orientation.w": [1, np.nan, 1],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(targets.columns[name], values, err_msg=name)
    assert "poses.mean.orientation.x" not in targets.columns, "the mean of quaternions is no rotation"
    assert set(targets.informative()) == {
        "poses.count",
        *(f"poses.{summary}.position.{axis}" for summary in ("mean", "min", "max") for axis in "xy"),
    }, "z is the same in all, and place 0 is not always the same object"
    assert targets.select(["poses.count", "poses.mean.position"]) == [
        "poses.count", "poses.mean.position.x", "poses.mean.position.y", "poses.mean.position.z",
    ]  # fmt: skip


def test_joints_go_by_their_names(tmp_path: Path) -> None:
    kind, empty = "sensor_msgs/msg/JointState", np.zeros(0)
    messages = [
        (kind, (["elbow", "wrist"], np.array([0.1, 0.2]), empty, np.array([1.0, np.nan]))),
        (kind, (["wrist", "elbow"], np.array([0.4, 0.3]), empty, np.array([2.0, 1.5]))),
        (kind, (["gripper"], np.array([7.0]), empty, empty)),
    ]
    targets = read_targets(write_topics(tmp_path / "a", {"/joints": messages}), "/joints")
    np.testing.assert_array_equal(targets.columns["position.elbow"], [0.1, 0.3, np.nan])
    np.testing.assert_array_equal(targets.columns["position.wrist"], [0.2, 0.4, np.nan])
    np.testing.assert_array_equal(targets.columns["effort.wrist"], [np.nan, 2.0, np.nan])
    assert set(targets.informative()) == {"position.elbow", "position.wrist", "effort.elbow"}


def test_odometry_without_covariance_and_with_one_sign_of_quaternions(tmp_path: Path) -> None:
    vector = TYPES["geometry_msgs/msg/Vector3"]
    messages = [
        (
            "nav_msgs/msg/Odometry",
            (
                "base",
                TYPES["geometry_msgs/msg/PoseWithCovariance"](pose(x, w=w), np.full(36, x)),
                TYPES["geometry_msgs/msg/TwistWithCovariance"](
                    TYPES["geometry_msgs/msg/Twist"](vector(x, 0.0, 0.0), vector(0.0, 0.0, -x)), np.full(36, x)
                ),
            ),
        )
        for x, w in ((1.0, 0.8), (2.0, -0.8))
    ]
    targets = read_targets(write_topics(tmp_path / "a", {"/odom": messages}), "/odom")
    assert targets.columns["pose.pose.orientation.w"].tolist() == [0.8, 0.8]
    assert targets.columns["pose.pose.orientation.x"].tolist() == [0.6, -0.6]
    assert targets.informative() == [
        "pose.pose.position.x", "pose.pose.orientation.x", "twist.twist.linear.x", "twist.twist.angular.z",
    ]  # fmt: skip


def test_long_arrays_are_summarized_and_bytes_are_no_targets(tmp_path: Path) -> None:
    scans = [
        ("sensor_msgs/msg/LaserScan", (0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 9.0, ranges.astype(np.float32), np.zeros(0, "f4")))
        for ranges in (np.array([np.inf, *range(1, 40)]), np.arange(40) + 2.0)
    ]
    targets = read_targets(write_topics(tmp_path / "a", {"/scan": scans}), "/scan")
    assert targets.informative() == ["ranges.mean", "ranges.min", "ranges.max"]
    assert targets.columns["ranges.mean"].tolist() == [20.0, 21.5], "what is not finite counts as absent"
    write_bag(tmp_path / "images", frames=2)
    assert set(read_targets(tmp_path / "images", "/raw").columns) == {"height", "width", "step", "is_bigendian"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=2)
    with pytest.raises(UserError, match=r"/odom.* /compressed, /raw, /text"):
        read_targets(tmp_path / "bag", "/odom")
    with pytest.raises(UserError, match=r"/text of .* has no numeric fields"):
        read_targets(tmp_path / "bag", "/text")
    with pytest.raises(UserError, match=r"pose: give --fields that are among height, width"):
        read_targets(tmp_path / "bag", "/raw").select(["pose"])


@pytest.mark.parametrize(
    ("stamps", "others", "expected"),
    [
        ([0, 10, 20, 30], [0, 10, 20, 30], [0, 1, 2, 3]),
        ([0, 100, 200], [1, 11, 21, 89, 99, 109, 150], [0, 4, -1]),  # a fast topic: within its interval of 10
        ([0, 10, 20, 30, 40, 50, 60], [24, 61, 90], [-1, -1, 0, 0, -1, -1, 1]),  # a slow one: within the images'
        ([5, 6, 16], [0, 10, 20], [0, 1, 2]),  # the earlier of two that are as near
        ([-50, 70], [0, 10, 20], [-1, -1]),
        ([100], [100], [0]),
        ([90, 100, 110], [99], [0, 0, -1]),
    ],
)
def test_the_nearest_message_belongs_to_an_image(stamps: list[int], others: list[int], expected: list[int]) -> None:
    found = nearest(np.array(stamps, np.int64), np.array(others, np.int64))
    assert found.tolist() == expected
