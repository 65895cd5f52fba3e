"""The rendered table: reproducible, and its masks and poses say where the objects are."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

pybullet = pytest.importorskip("pybullet")

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
from render_table import Scene, messages
from stereo_depth import as_measured

TOPICS = {
    "/camera/image_raw/compressed": "camera",
    "/camera/camera_info": "camera",
    "/ground_truth/mask/compressed": "camera",
    "/ground_truth/poses": "camera",
}


def render(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "render_table.py"), str(out), "--size", "64x48", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def read(bag: Path) -> list[tuple[str, int, bytes, Any]]:
    with AnyReader([bag]) as reader:
        return [
            (connection.topic, stamp, bytes(raw), reader.deserialize(raw, connection.msgtype))
            for connection, stamp, raw in reader.messages()
        ]


def masks(bag: Path) -> dict[int, Any]:
    return {
        stamp: cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
        for topic, stamp, _, message in read(bag)
        if topic == "/ground_truth/mask/compressed"
    }


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "bag"
    finished = render(out, "--seconds", "2", "--rate", "5")
    assert finished.returncode == 0, finished.stderr
    return out


@pytest.fixture(params=[5, 6])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    # One scene at a time: its pybullet calls all go to the first client.
    scene = Scene(40.0, request.param, 160, 120)
    yield scene
    scene.close()


def test_the_same_seed_gives_the_same_bytes(bag: Path, tmp_path: Path) -> None:
    assert render(tmp_path / "again", "--seconds", "2", "--rate", "5").returncode == 0
    assert [entry[:3] for entry in read(tmp_path / "again")] == [entry[:3] for entry in read(bag)]


def test_another_seed_gives_other_objects(bag: Path, tmp_path: Path) -> None:
    assert render(tmp_path / "other", "--seconds", "2", "--rate", "5", "--seed", "1").returncode == 0
    ours, theirs = masks(bag), masks(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    # A few objects cover a tenth of the image: those elsewhere leave few pixels that both call object.
    both = [
        ((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum()
        for a, b in zip(ours.values(), theirs.values(), strict=True)
    ]
    assert max(both) < 0.5


def test_the_motion_does_not_depend_on_the_rate(bag: Path, tmp_path: Path) -> None:
    assert render(tmp_path / "faster", "--seconds", "2", "--rate", "10").returncode == 0
    slow, fast = masks(bag), masks(tmp_path / "faster")
    assert len(fast) == 2 * len(slow) == 20
    for stamp, mask in slow.items():
        np.testing.assert_array_equal(mask, fast[stamp])


def test_every_frame_has_its_four_messages(bag: Path) -> None:
    entries = read(bag)
    assert len(entries) == 10 * len(TOPICS)
    by_stamp: dict[int, dict[str, Any]] = {}
    for topic, stamp, _, message in entries:
        assert message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec == stamp
        assert message.header.frame_id == TOPICS[topic]
        by_stamp.setdefault(stamp, {})[topic] = message
    assert np.diff(list(by_stamp)).tolist() == [200_000_000] * 9
    for frame in by_stamp.values():
        assert frame.keys() == TOPICS.keys()
        image = cv2.imdecode(frame["/camera/image_raw/compressed"].data, cv2.IMREAD_UNCHANGED)
        mask = cv2.imdecode(frame["/ground_truth/mask/compressed"].data, cv2.IMREAD_UNCHANGED)
        assert (image.shape, mask.shape, mask.dtype) == ((48, 64, 3), (48, 64), np.uint8)
        assert mask.max() <= len(frame["/ground_truth/poses"].poses)


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine.txt").write_text("mine")
    finished = render(tmp_path / "bag")
    assert finished.returncode != 0
    assert f"{tmp_path / 'bag'} exists already" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert [file.name for file in tmp_path.rglob("*")] == ["bag", "mine.txt"]


def test_depth_is_added_and_changes_nothing_else(bag: Path, tmp_path: Path) -> None:
    assert render(tmp_path / "bag", "--seconds", "2", "--rate", "5", "--depth").returncode == 0
    by_topic: dict[str, list[Any]] = {}
    for topic, _, raw, message in read(tmp_path / "bag"):
        by_topic.setdefault(topic, []).append((raw, message))
    for topic, _, raw, _ in read(bag):
        assert by_topic[topic].pop(0)[0] == raw
    depth, infos = (by_topic[f"/camera/aligned_depth_to_color/{name}"] for name in ("image_raw", "camera_info"))
    assert len(depth) == len(infos) == 10
    for (_, image), (_, info) in zip(depth, infos, strict=True):
        assert (image.encoding, image.height, image.width, image.step) == ("16UC1", 48, 64, 128)
        assert image.header == info.header
        millimeters = image.data.view("<u2")
        assert 500 < np.median(millimeters[millimeters > 0]) < 1500


def test_depth_is_that_of_the_scene_but_for_noise_that_grows_with_distance(scene: Scene) -> None:
    _, mask, _, depth = scene.render(10.0)
    # The table's top is z = 0 of the world: true depth puts its points there, to the renderer's precision.
    to_camera = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.reshape(scene._view(10.0), (4, 4)).T
    rows, columns = np.nonzero((mask == 0) & (depth < 1.0))
    z = depth[rows, columns]
    points = np.stack([(columns - 80) / scene.focal * z, (rows - 59) / scene.focal * z, z], axis=1)
    heights = (points - to_camera[:3, 3]) @ to_camera[:3, 2]
    assert np.abs(heights).max() < 0.005
    for far in (0.5, 1.0, 2.0):
        flat = np.full((120, 160), far)
        light = np.full((120, 160, 3), 200, np.uint8)
        measured = as_measured(flat, light, scene.focal, np.random.default_rng(0)) / 1000
        assert measured.min() > 0
        assert measured.std() == pytest.approx(far**2 * 0.08 / (425 * 0.05), rel=0.1)


def test_depth_has_holes_where_one_imager_sees_nothing_and_flying_pixels_at_outlines() -> None:
    depth = np.full((120, 160), 1.5)
    depth[30:90, 60:100] = 0.7
    light = np.full((120, 160, 3), 200, np.uint8)
    measured = as_measured(depth, light, 280.0, np.random.default_rng(0)) / 1000
    shadow = 280 * 0.05 * (1 / 0.7 - 1 / 1.5)  # pixels of the background, left of what is near
    assert (measured[32:88, 60 - int(shadow) : 60] == 0).mean() > 0.9
    assert (measured[32:88, 102:] > 0).all()
    between = (measured > 0.8) & (measured < 1.3)
    assert between[:, 98:102].any()
    assert not between[:, 110:].any()
    dark = as_measured(depth, np.zeros_like(light), 280.0, np.random.default_rng(0))
    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("arguments", [("--size", "320"), ("--size", "0x0"), ("--rate", "0"), ("--seed", "-1")])
def test_arguments_that_make_no_sense_get_one_sentence(tmp_path: Path, arguments: tuple[str, str]) -> None:
    finished = render(tmp_path / "bag", *arguments)
    assert finished.returncode != 0
    assert arguments[0] in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.iterdir())


def test_poses_project_into_the_masks_of_the_same_number(scene: Scene) -> None:
    info = next(messages(scene, 0.1, 10.0))[1]["/camera/camera_info"]
    compared = 0
    for time in np.arange(1.0, 40.0, 1.5):
        _, mask, poses, _ = scene.render(time)
        positions = np.reshape([position for position, _ in poses], (-1, 3))
        projected = positions @ info.k.reshape(3, 3).T
        depths = projected[:, 2]
        for number, (column, row) in enumerate(projected[:, :2] / depths[:, None], start=1):
            if not (0 <= column < 160 and 0 <= row < 120):
                continue  # still in the air above the image
            seen = mask[int(row), int(column)]
            if seen in (0, number):
                rows, columns = np.nonzero(mask == number)
                assert np.hypot(columns - column, rows - row).min() < 2.0
                compared += 1
            else:  # hidden there, which only a nearer object can do
                assert depths[seen - 1] < depths[number - 1]
    assert compared > 30


def test_orientations_are_those_seen_by_the_camera(scene: Scene) -> None:
    _, _, poses, _ = scene.render(10.0)
    # OpenGL's camera looks along -z with y up, ROS's along z with y down.
    rotation = np.diag([1.0, -1.0, -1.0]) @ np.reshape(scene._view(10.0), (4, 4)).T[:3, :3]
    for (body, _), (_, turn) in zip(scene.bodies.values(), poses, strict=True):
        in_world = np.reshape(pybullet.getMatrixFromQuaternion(pybullet.getBasePositionAndOrientation(body)[1]), (3, 3))
        seen = np.reshape(pybullet.getMatrixFromQuaternion(turn), (3, 3))
        np.testing.assert_allclose(seen, rotation @ in_world, atol=1e-6)


def test_objects_rest_on_the_table_and_keep_clear_of_each_other(scene: Scene) -> None:
    rested = 0
    for time in np.arange(0.0, 40.0, 0.5):
        scene._move(time)
        bodies = [body for body, _ in scene.bodies.values()]
        for number, (body, _) in scene.bodies.items():
            visit = scene.visits[number]
            if visit.arrives + 0.5 <= time < visit.leaves - 0.5:
                assert abs(pybullet.getAABB(body)[0][2]) < 0.005
                rested += 1
            for other in bodies[bodies.index(body) + 1 :]:
                assert not pybullet.getClosestPoints(body, other, 0.0)
    assert rested > 100


def test_objects_cover_five_to_twenty_per_cent_of_most_frames(scene: Scene) -> None:
    rendered = [scene.render(time) for time in np.arange(0.0, 40.0, 0.8)]
    shares = np.array([(mask > 0).mean() for _, mask, _, _ in rendered])
    assert ((shares >= 0.05) & (shares <= 0.20)).mean() > 0.7
    assert max(len(poses) for _, _, poses, _ in rendered) <= 4
