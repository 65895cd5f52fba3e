"""Objects in meters from masks and depth, against literal loops and solids whose boxes are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from imports import ROOT
from numpy.typing import NDArray
from solids import CAMERA, View, ball, cuboid, looking_down, seen, table

from dino_ros.depth.boxes import Box, quaternion, rotation
from dino_ros.depth.images import Pinhole, depth_meters
from dino_ros.depth.objects import LocatedObject, locate
from dino_ros.depth.support import _plane_through_most
from dino_ros.depth.surface import JUMP, Surface
from dino_ros.errors import UserError

NAV2_SOURCE = {
    *("topic", "sensor_frame", "data_type", "observation_persistence", "expected_update_rate", "inf_is_valid"),
    *("min_obstacle_height", "max_obstacle_height", "marking", "clearing"),
    *("obstacle_max_range", "obstacle_min_range", "raytrace_max_range", "raytrace_min_range"),
}
"""Parameters of a source in Nav2's obstacle layer, from nav2_costmap_2d's obstacle_layer.cpp of Jazzy."""


def image(encoding: str, values: NDArray[Any], big: bool = False) -> Any:
    height, width = values.shape
    raw = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    step = raw.strides[0]
    data = np.frombuffer(raw.tobytes(), np.uint8)
    return SimpleNamespace(encoding=encoding, height=height, width=width, step=step, is_bigendian=int(big), data=data)


def info(**fields: Any) -> Any:
    k = np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1])
    usual = {"width": 640, "height": 480, "k": k, "p": np.insert(k, [3, 6, 9], 0.0)}
    region = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(**{**usual, "roi": region, **fields})


@pytest.mark.parametrize("big", [False, True])
def test_depth_is_read_in_meters_with_holes_as_zero(big: bool) -> None:
    millimeters = np.array([[0, 1, 1000], [65535, 250, 0]], np.uint16)
    np.testing.assert_allclose(depth_meters(image("16UC1", millimeters, big)), millimeters / 1000, rtol=1e-6)
    meters = np.array([[np.nan, np.inf, 1.5], [-np.inf, -1.0, 1e30]], np.float32)
    np.testing.assert_array_equal(depth_meters(image("32FC1", meters, big)), [[0, 0, 1.5], [0, 0, 0]])


def test_what_is_not_depth_is_refused() -> None:
    with pytest.raises(UserError, match="'rgb8' is not depth: publish 16UC1"):
        depth_meters(image("rgb8", np.zeros((2, 6), np.uint8)))
    cut = image("16UC1", np.ones((4, 5), np.uint16))
    cut.data = cut.data[:-1]
    with pytest.raises(UserError, match="incomplete"):
        depth_meters(cut)


def test_the_pinhole_is_that_of_the_rectified_image_and_of_its_region() -> None:
    p = np.array([400.0, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0])
    assert Pinhole.of(info(p=p)) == Pinhole(640, 480, 400, 410, 300, 200)
    assert Pinhole.of(info(p=np.zeros(12))) == Pinhole(640, 480, 500, 510, 320, 240)
    region = SimpleNamespace(x_offset=100, y_offset=40, width=320, height=240)
    assert Pinhole.of(info(roi=region)) == Pinhole(320, 240, 500, 510, 220, 200)


@pytest.mark.parametrize(
    "wrong", [{"k": np.full(9, np.nan)}, {"k": np.zeros(9)}, {"width": 0}, {"k": np.full(9, np.inf)}]
)
def test_a_camera_that_was_never_calibrated_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="calibrate the camera"):
        Pinhole.of(info(p=np.zeros(12), **wrong))


def test_a_smaller_image_sees_the_same_points() -> None:
    # The block of pixels 4..7 becomes pixel 1: its middle, 5.5, must be where 1 is.
    full = Pinhole.of(info())
    quarter = full.resized(120, 160)
    rows, columns, depth = np.array([5.5, 81.5]), np.array([1.5, 401.5]), np.array([0.7, 2.0], np.float32)
    np.testing.assert_allclose(
        quarter.points((rows - 1.5) / 4, (columns - 1.5) / 4, depth), full.points(rows, columns, depth), rtol=1e-5
    )


def test_images_of_another_shape_are_no_registered_depth() -> None:
    with pytest.raises(UserError, match="registered"):
        Surface(np.ones((480, 848), np.float32), Pinhole.of(info()))
    surface = Surface(np.ones((240, 320), np.float32), Pinhole.of(info()))
    with pytest.raises(UserError, match=r"depth image has 320x240 .* mask 1280x720"):
        surface.registered(np.zeros((720, 1280), np.uint16))


def literal_points(depth: NDArray[np.float32], numbers: NDArray[np.uint16]) -> dict[int, list[list[float]]]:
    """Pixel by pixel, without flying pixels."""
    height, width = depth.shape
    found: dict[int, list[list[float]]] = {}
    for row in range(height):
        for column in range(width):
            number, z = int(numbers[row, column]), float(depth[row, column])
            if not number:
                continue
            around = depth[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].astype(float)
            if z and not any(z - other > JUMP * z for other in around[around > 0]):
                x, y = (column - CAMERA.cx) / CAMERA.fx * z, (row - CAMERA.cy) / CAMERA.fy * z
                found.setdefault(number, []).append([x, y, z])
    return found


def test_points_are_those_of_a_literal_loop() -> None:
    rng = np.random.default_rng(0)
    depth = np.full((CAMERA.height, CAMERA.width), 1.0, np.float32)
    depth[60:120, 50:90] = 0.8
    depth[80:100, 90:130] = 2.0
    depth += rng.normal(0, 0.004, depth.shape).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[rng.random(depth.shape) < 0.03] *= 0.97
    numbers = np.zeros(depth.shape, np.uint16)
    numbers[50:125, 45:95] = 7
    numbers[80:100, 110:120] = 300
    numbers[0:4, 300:320] = 65535
    numbers[200, 5] = 9
    depth[200, 5] = 0
    literal = literal_points(depth, numbers)
    ours = Surface(depth, CAMERA).object_points(numbers)
    assert [points.number for points in ours] == sorted(literal) == [7, 300, 65535]  # 9 has no depth
    for points in ours:
        expected = np.reshape(literal[points.number], (-1, 3))
        np.testing.assert_allclose(points.xyz, expected, atol=1e-5)
        np.testing.assert_array_equal(depth.ravel()[points.pixels], expected[:, 2].astype(np.float32))


def located(depth: NDArray[np.float32], numbers: NDArray[np.uint16]) -> dict[int, LocatedObject]:
    return {found.points.number: found for found in locate(Surface(depth, CAMERA), [numbers])[0]}


def check_box(box: Box, view: View, center: Any, size: Any, yaw: float, within: float) -> None:
    np.testing.assert_allclose(box.center, view.into_camera(np.array(center)), atol=within)
    np.testing.assert_allclose(box.size, size, atol=2 * within)
    axes = view.rotation.T @ box.axes
    np.testing.assert_allclose(np.abs(axes[:2, 0] @ [np.cos(yaw), np.sin(yaw)]), 1, atol=0.01)
    np.testing.assert_allclose(axes[:, 2], [0, 0, 1], atol=0.02)
    assert np.linalg.det(box.axes) == pytest.approx(1)


@pytest.mark.parametrize("degrees", [30, 50, 90])
def test_a_cuboid_on_a_table_gets_its_box(degrees: float) -> None:
    view = looking_down(degrees)
    center, size, yaw = np.array([0.05, 0.03, 0.06]), np.array([0.2, 0.1, 0.12]), 0.5
    depth, numbers = seen(table(view), cuboid(view, center, size, yaw))
    box = located(depth, numbers)[1].box
    check_box(box, view, center, size, yaw, 0.006)
    assert box.standing


def test_the_back_of_a_ball_is_completed() -> None:
    view = looking_down(45)
    center, radius = np.array([-0.05, 0.0, 0.09]), 0.09
    box = located(*seen(table(view), ball(view, center, radius)))[1].box
    np.testing.assert_allclose(box.center, view.into_camera(center), atol=0.008)
    np.testing.assert_allclose(box.size, 2 * radius, atol=0.016)


def test_a_mask_that_reaches_onto_table_and_wall_makes_no_difference() -> None:
    view = looking_down(40)
    center, size = np.array([0.0, 0.0, 0.05]), np.array([0.16, 0.08, 0.1])
    wall = cuboid(view, np.array([0.0, 1.0, 1.0]), np.array([4.0, 0.02, 2.0]), 0.0)
    depth, numbers = seen(table(view), cuboid(view, center, size, 0.3), wall)
    exact = np.where(numbers == 1, 1, 0).astype(np.uint16)
    rows, columns = np.nonzero(exact)
    loose = np.zeros_like(exact)
    bottom_of_wall = np.nonzero((numbers == 2).any(axis=1))[0].max()
    loose[bottom_of_wall - 4 : rows.max() + 6, columns.min() - 6 : columns.max() + 6] = 1
    ours = located(depth, loose)[1]
    np.testing.assert_allclose(ours.box.center, located(depth, exact)[1].box.center, atol=0.005)
    np.testing.assert_allclose(ours.box.size, located(depth, exact)[1].box.size, atol=0.01)
    assert (exact.ravel()[ours.points.pixels] == 1).mean() > 0.97


def test_an_object_in_the_air_is_not_completed_down_to_the_table() -> None:
    view = looking_down(40)
    center, size = np.array([0.0, 0.0, 0.3]), np.array([0.1, 0.1, 0.06])
    box = located(*seen(table(view), cuboid(view, center, size, 0.0)))[1].box
    assert not box.standing
    assert box.size[2] == pytest.approx(0.06, abs=0.01)


def test_without_a_plane_the_box_has_the_principal_axes() -> None:
    view = looking_down(60)
    depth = cuboid(view, np.array([0.0, 0, 0.03]), np.array([0.24, 0.06, 0.06]), 0.4)
    depth, numbers = seen(np.full(depth.shape, np.inf), depth)
    box = located(depth, numbers)[1].box
    assert not box.standing
    along = view.rotation.T @ box.axes[:, 0]
    np.testing.assert_allclose(np.abs(along), [np.cos(0.4), np.sin(0.4), 0], atol=0.05)
    assert box.size[0] == pytest.approx(0.24, abs=0.02)


def test_depth_and_masks_may_have_different_sizes_and_overlap() -> None:
    view = looking_down(50)
    center, size = np.array([0.0, 0.0, 0.05]), np.array([0.18, 0.1, 0.1])
    depth, numbers = seen(table(view), cuboid(view, center, size, 0.2))
    large = np.kron(numbers, np.ones((2, 2), np.uint16))
    first, second = locate(Surface(depth, CAMERA), [large * 5, numbers * 9])
    assert [found.points.number for found in (*first, *second)] == [5, 9]
    np.testing.assert_array_equal(first[0].points.xyz, second[0].points.xyz)


@pytest.mark.parametrize("depth", [0.0, 1.0])
def test_masks_without_objects_or_depth_locate_nothing(depth: float) -> None:
    flat = np.full((CAMERA.height, CAMERA.width), depth, np.float32)
    numbers = np.zeros(flat.shape, np.uint16)
    assert locate(Surface(flat, CAMERA), [numbers]) == [[]]
    numbers[10:12, 10:14] = 3  # too few points for a box
    assert locate(Surface(flat, CAMERA), [numbers, numbers]) == [[], []]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_strange_depth_never_raises_and_gives_finite_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.choice(
        [0.0, np.nan, 1e-3, 0.3, 1.0, 1.001, 999.0], CAMERA.height * CAMERA.width, p=rng.dirichlet(np.ones(7))
    )
    numbers = np.zeros((CAMERA.height, CAMERA.width), np.uint16)
    for number in range(1, 6):
        top, left = rng.integers(0, [230, 310])
        numbers[top : top + rng.integers(1, 80), left : left + rng.integers(1, 80)] = number
    surface = Surface(depth_meters(image("32FC1", depth.reshape(numbers.shape).astype(np.float32))), CAMERA)
    for found in locate(surface, [numbers])[0]:
        assert np.isfinite(found.box.center).all()
        assert (found.box.size >= 0).all()
        np.testing.assert_allclose(found.box.axes.T @ found.box.axes, np.eye(3), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_plane_that_loses_its_points_when_it_is_fitted_is_none() -> None:
    rng = np.random.default_rng(27)
    depth = rng.choice([1e-30, 1e-3, 0.5, 1, 999], 200).astype(np.float32)
    points = (rng.uniform(-20, 20, (200, 3)) * depth[:, None]).astype(np.float32)
    points[:, 2] = depth
    assert _plane_through_most(points) is None


def test_quaternions_are_those_of_rotations() -> None:
    rng = np.random.default_rng(0)
    turns = [*rng.normal(size=(50, 4)), *np.eye(4), [1.0, 1, 0, 0], [0.0, 1, 1, 0], [1e-9, 0, 0, 1]]
    for turn in turns:
        x, y, z, w = turn / np.linalg.norm(turn)
        for vector in np.eye(3):
            axis = np.array([x, y, z])  # Rodrigues' formula, from axis and angle
            turned = vector + 2 * w * np.cross(axis, vector) + 2 * np.cross(axis, np.cross(axis, vector))
            np.testing.assert_allclose(rotation(x, y, z, w) @ vector, turned, atol=1e-12)
        ours = quaternion(rotation(x, y, z, w))
        assert abs(ours @ [x, y, z, w]) == pytest.approx(1)
        assert ours[3] >= 0


def test_a_moved_box_is_where_its_corners_went() -> None:
    box = Box(np.array([0.1, 0.2, 0.9]), rotation(0.1, 0.2, 0.3, 0.9), np.array([0.3, 0.2, 0.1]), True)
    turn, shift = rotation(0.5, -0.1, 0.2, 0.7), np.array([1.0, 2.0, 3.0])
    moved = box.moved(turn, shift)
    corner = np.array([1, -1, 1]) / 2
    before, after = (one.center + one.axes @ (corner * one.size) for one in (box, moved))
    np.testing.assert_allclose(after, turn @ before + shift)


def test_the_example_in_the_docs_prints_a_box_for_every_object(capsys: pytest.CaptureFixture[str]) -> None:
    view = looking_down(50)
    depth, numbers = seen(table(view), cuboid(view, np.array([0.0, 0, 0.05]), np.array([0.2, 0.1, 0.1]), 0.0))
    code = (ROOT / "docs" / "depth.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    exec(code, {"depth": depth, "numbers": numbers * 7})
    assert capsys.readouterr().out.startswith("7 [")


def test_the_costmap_takes_what_the_node_publishes() -> None:
    file = yaml.safe_load((ROOT / "config" / "nav2_costmap.yaml").read_text())
    layer = file["local_costmap"]["local_costmap"]["ros__parameters"]["voxel_layer"]
    sources = layer["observation_sources"].split()
    assert layer["objects"]["topic"] == "/dino/points"
    for source in sources:
        assert layer[source].keys() <= NAV2_SOURCE
        assert layer[source]["data_type"] == "PointCloud2"
        assert layer[source]["max_obstacle_height"] > 0, "Nav2's default, 0, drops every point"
    assert [source for source in sources if layer[source]["marking"]] == ["objects"]
    assert [source for source in sources if layer[source]["clearing"]] == ["depth"]
