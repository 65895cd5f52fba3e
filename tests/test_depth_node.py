"""The depth node over DDS, in this process: masks and depth in, points and boxes out."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rclpy")

from clients import Client, header, values
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from solids import CAMERA, cuboid, looking_down, seen, table
from std_msgs.msg import Header

from dino_ros.depth.boxes import quaternion
from dino_ros.depth.objects import locate
from dino_ros.depth.surface import Surface
from dino_ros.errors import UserError
from dino_ros.images.stamps import stamp_ns
from dino_ros.nodes.depth_node import DepthNode
from dino_ros.nodes.detections import vision
from dino_ros.nodes.messages import _image, labels_message, mask_message, rgb_message

VIEW = looking_down(50)
METERS, NUMBERS = seen(
    table(VIEW),
    cuboid(VIEW, np.array([-0.15, 0.0, 0.05]), np.array([0.16, 0.1, 0.1]), 0.3),
    cuboid(VIEW, np.array([0.15, 0.05, 0.04]), np.array([0.12, 0.12, 0.08]), 0.7),
)
RGB = np.random.default_rng(0).integers(0, 256, (*NUMBERS.shape, 3), dtype=np.uint8)
FRAME = "camera_color_optical_frame"
DIAGNOSTIC = "/dino/depth: depth"


class Robot(Client):
    """A color and a depth camera, the perception node, and who wants the results."""

    def __init__(self) -> None:
        super().__init__(topic="/dino/image")
        self.depth = self.create_publisher(Image, "/dino/depth/image", 10)
        self.info = self.create_publisher(CameraInfo, "/dino/depth/camera_info", 10)
        self.objects = self.create_publisher(Image, "/dino/objects", 10)
        self.cup = self.create_publisher(Image, "/dino/cup/mask", 10)

    def heard(self, *publishers: Any) -> None:
        self.wait(lambda: all(one.get_subscription_count() == 1 for one in publishers), "the node's subscriptions")

    def send_info(self, stamp: int) -> None:
        k = np.array([CAMERA.fx, 0, CAMERA.cx, 0, CAMERA.fy, CAMERA.cy, 0, 0, 1])
        info = CameraInfo(header=header(stamp, FRAME), width=CAMERA.width, height=CAMERA.height, k=k)
        info.p = np.insert(k, [3, 6, 9], 0.0)
        self.info.publish(info)

    def send_depth(self, stamp: int, depth: NDArray[np.uint16]) -> None:
        self.depth.publish(labels_message(depth, header(stamp, FRAME)))


@pytest.fixture
def robot(ros: None) -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.destroy_node()


@pytest.fixture
def start(ros: None) -> Iterator[Callable[..., DepthNode]]:
    """Makes the node with parameters and brings it to active."""
    ends: list[Callable[[], object]] = []

    def made(**parameters: Any) -> DepthNode:
        node = DepthNode()
        node.set_parameters([Parameter(name, value=value) for name, value in parameters.items()])
        executor = MultiThreadedExecutor(num_threads=2)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        ends.extend([node.destroy_node, node.stop, thread.join, executor.shutdown])
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        return node

    yield made
    for end in reversed(ends):
        end()


def cloud(message: PointCloud2) -> NDArray[Any]:
    """The points as a structured array, by the message's own fields."""
    kinds = {7: "<f4", 6: "<u4"}
    fields = [(field.name, kinds[field.datatype], field.offset) for field in message.fields]
    names, formats, offsets = zip(*fields, strict=True)
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
    return np.frombuffer(bytes(message.data), dtype)


def test_objects_and_named_masks_become_points_and_boxes(robot: Robot, start: Callable[..., DepthNode]) -> None:
    start(names=["objects", "cup"], reliability="reliable")
    clouds = robot.listen("/dino/points", PointCloud2)
    boxes = robot.listen("/dino/objects_3d", vision.Detection3DArray) if vision else []
    robot.heard(robot.camera, robot.depth, robot.info, robot.objects, robot.cup)
    millimeters = np.round(METERS * 1000).astype(np.uint16)
    robot.send_info(0)
    stamp = 0
    crumb = np.zeros_like(NUMBERS)
    crumb[:6, :6] = 1
    cups = np.where((NUMBERS > 0) | (crumb > 0), 255, 0).astype(np.uint8)

    def answered() -> bool:
        """Send a frame; whether it is answered with colors, and with all masks, as it is from the second one on."""
        nonlocal stamp
        stamp += 100
        robot.send(stamp, RGB, header=header(stamp, FRAME))
        robot.send_depth(stamp - 5, millimeters)
        robot.send_depth(stamp + 28, np.zeros_like(millimeters))
        robot.pause(0.1)
        robot.objects.publish(labels_message(NUMBERS * 40, header(stamp, FRAME)))
        robot.cup.publish(mask_message(cups, header(stamp, FRAME)))
        robot.pause(0.1)
        seen = cloud(clouds[-1]) if clouds else np.empty(0, [("object", int), ("rgb", int)])
        numbers, colors = (len(np.unique(seen[field])) for field in ("object", "rgb"))
        return numbers == 4 and colors > 1 and (not vision or (boxes and boxes[-1].header == clouds[-1].header))

    robot.wait(answered, "the objects in color")
    assert clouds[-1].header.frame_id == FRAME
    assert stamp_ns(clouds[-1]) % 100_000_000 == 0, "the stamp is the mask's"
    ours = cloud(clouds[-1])
    surface = Surface(millimeters.astype(np.float32) * np.float32(0.001), CAMERA)
    assert np.count_nonzero(NUMBERS == 1) > np.count_nonzero(NUMBERS == 2)
    (first, second), (large, small) = locate(surface, [NUMBERS * 40, NUMBERS])
    expected = {40: first, 80: second, 2 * 65536 + 1: large, 2 * 65536 + 2: small}
    assert np.unique(ours["object"]).tolist() == [*expected]
    for number, found in expected.items():
        points = ours[ours["object"] == number]
        np.testing.assert_array_equal(np.stack([points["x"], points["y"], points["z"]], axis=1), found.points.xyz)
        red, green, blue = RGB.reshape(-1, 3)[found.points.pixels].astype(np.uint32).T
        np.testing.assert_array_equal(points["rgb"].view("<u4"), red << 16 | green << 8 | blue)
    assert clouds[-1].is_dense
    assert clouds[-1].row_step == len(clouds[-1].data) == clouds[-1].width * clouds[-1].point_step
    if vision:
        detections = {detection.id: detection for detection in boxes[-1].detections}
        assert [*detections] == ["40", "80", "131073", "131074"]
        for number, name in (("40", "object"), ("131073", "cup"), ("131074", "cup")):
            (result,), box = detections[number].results, expected[int(number)].box
            assert result.hypothesis.class_id == name
            position, size = detections[number].bbox.center.position, detections[number].bbox.size
            np.testing.assert_allclose([position.x, position.y, position.z], box.center)
            np.testing.assert_allclose([size.x, size.y, size.z], box.size)
            assert result.pose.pose == detections[number].bbox.center


def test_nothing_is_subscribed_to_while_nobody_listens(robot: Robot, start: Callable[..., DepthNode]) -> None:
    start()
    inputs = (robot.camera, robot.depth, robot.info, robot.objects)
    status = robot.diagnosis(lambda s: s.message.startswith("active"), DIAGNOSTIC)
    assert "no subscribers" in status.message
    assert [one.get_subscription_count() for one in inputs] == [0, 0, 0, 0]
    robot.listen("/dino/points", PointCloud2)
    robot.heard(*inputs)
    robot.destroy_subscription(robot.subscriptions_by_topic["/dino/points"])
    robot.wait(lambda: all(one.get_subscription_count() == 0 for one in inputs), "the node to unsubscribe")


def test_what_is_wrong_is_said_and_counted_and_ends_nothing(robot: Robot, start: Callable[..., DepthNode]) -> None:
    node = start(color=False, names=["objects", "ghost"], reliability="reliable")
    clouds = robot.listen("/dino/points", PointCloud2)
    robot.heard(robot.depth, robot.info, robot.objects)
    assert robot.camera.get_subscription_count() == 0
    stamp = 0

    def said(sentence: str, send: Callable[[Header], None]) -> dict[str, str]:
        """Send something and a frame of masks again and again until the diagnostics say so."""

        def told() -> bool:
            nonlocal stamp
            stamp += 1000
            send(header(stamp, FRAME))
            robot.objects.publish(labels_message(NUMBERS, header(stamp, FRAME)))
            robot.pause(0.05)
            (status,) = node._report(1.0)
            reports.append(values(status))
            return sentence in status.message and status.level != DiagnosticStatus.OK

        reports: list[dict[str, str]] = []
        robot.wait(told, sentence)
        return reports[-1]

    millimeters = np.round(METERS * 1000).astype(np.uint16)
    report = said("No depth image has come on /dino/depth/image", lambda at: None)
    assert "Nobody publishes on /dino/ghost/mask" in str(report)
    assert int(report["frames without depth"]) > 0
    said("No camera_info has come", lambda at: robot.depth.publish(labels_message(millimeters, at)))
    robot.info.publish(CameraInfo(width=CAMERA.width, height=CAMERA.height, k=np.full(9, np.nan)))
    said("calibrate the camera", lambda at: robot.depth.publish(labels_message(millimeters, at)))
    robot.send_info(0)
    said("'rgb8' is not depth", lambda at: robot.depth.publish(rgb_message(RGB, at)))
    said("320x180", lambda at: robot.depth.publish(labels_message(millimeters[:180], at)))
    said("incomplete", lambda at: robot.depth.publish(_image(b"12", at, 240, 320, "16UC1", 640)))
    said("within the 0.05 s of slop", lambda at: robot.send_depth(stamp + 300, millimeters))

    def empty() -> bool:
        nonlocal stamp
        stamp += 1000
        robot.send_depth(stamp, millimeters)
        robot.objects.publish(labels_message(np.zeros_like(NUMBERS), header(stamp, FRAME)))
        robot.pause(0.05)
        return bool(clouds) and clouds[-1].header == header(stamp, FRAME)

    robot.wait(empty, "an empty cloud")
    assert clouds[-1].width == 0
    other = Header(stamp=header(stamp + 1000, "").stamp, frame_id="camera_depth_optical_frame")
    robot.depth.publish(labels_message(millimeters, other))
    robot.objects.publish(labels_message(NUMBERS, header(stamp + 1000, FRAME)))
    robot.wait(lambda: clouds[-1].width, "points")
    assert clouds[-1].header == other
    assert "'camera_depth_optical_frame', the mask 'camera_color_optical_frame'" in str(values(node._report(1.0)[0]))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("names", ["a b"], "is not a topic name"),
        ("names", ["x", "x"], "none twice"),
        ("slop", 0.2, "clean it up first"),
    ],
)
def test_parameters_that_cannot_be_taken_are_refused(ros: None, name: str, value: Any, sentence: str) -> None:
    node = DepthNode()
    if name == "slop":
        node.trigger_configure()
    (result,) = node.set_parameters([Parameter(name, value=value)])
    node.destroy_node()
    assert not result.successful
    assert sentence in result.reason


def test_without_tf_a_target_frame_is_refused_at_configuring(ros: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    node = DepthNode()
    node.set_parameters([Parameter("target_frame", value="base_link")])
    with pytest.raises(UserError, match="tf2-ros-py"):
        node._configure()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()


def test_results_are_in_the_frame_that_is_named(robot: Robot, start: Callable[..., DepthNode]) -> None:
    pytest.importorskip("tf2_ros", reason="tf2_ros is not installed")
    from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
    from tf2_ros import StaticTransformBroadcaster

    start(target_frame="map", color=False)
    clouds = robot.listen("/dino/points", PointCloud2)
    robot.heard(robot.depth, robot.info, robot.objects)
    millimeters = np.round(METERS * 1000).astype(np.uint16)
    robot.send_info(0)
    robot.send_depth(100, millimeters)
    robot.objects.publish(labels_message(NUMBERS, header(100, FRAME)))
    robot.diagnosis(lambda s: "There is no transform from 'camera_color_optical_frame'" in s.message, DIAGNOSTIC)
    assert not clouds

    transform = TransformStamped(header=header(0, "map"), child_frame_id=FRAME)
    x, y, z, w = quaternion(VIEW.rotation.T).tolist()
    at = (-VIEW.rotation.T @ VIEW.translation).tolist()
    transform.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    transform.transform.translation = Vector3(**dict(zip("xyz", at, strict=True)))
    broadcaster = StaticTransformBroadcaster(robot)
    broadcaster.sendTransform(transform)
    stamp = 100

    def transformed() -> bool:
        nonlocal stamp
        stamp += 1000
        robot.send_depth(stamp, millimeters)
        robot.objects.publish(labels_message(NUMBERS, header(stamp, FRAME)))
        robot.pause(0.05)
        return bool(clouds)

    robot.wait(transformed, "points in the map's frame")
    assert clouds[0].header.frame_id == "map"
    assert stamp_ns(clouds[0]) in [number * 1_000_000 for number in range(1100, stamp + 1, 1000)]
    points = cloud(clouds[0])
    first = points[points["object"] == 1]
    assert first["z"].max() == pytest.approx(0.1, abs=0.003)  # the object's height above the table, which is z = 0
    np.testing.assert_allclose([first["x"].mean(), first["y"].mean()], [-0.15, 0.0], atol=0.03)
    assert points["x"][points["object"] == 2].mean() == pytest.approx(0.15, abs=0.03)
