"""Render the log of a robot's camera over a table: a rosbag2 with images, ground-truth masks and object poses.

    python examples/render_table.py OUT --seconds 20 --rate 15 --seed 0 --size 320x240

Table, floor and light are the same for every seed, as in one robot's log; the seed decides which objects appear, how
they move and when they leave. The scene is a function of time: another rate shows the same motion. Topics:

    /camera/image_raw/compressed     sensor_msgs/CompressedImage, JPEG
    /camera/camera_info              sensor_msgs/CameraInfo
    /ground_truth/mask/compressed    sensor_msgs/CompressedImage, PNG mono8: 0 background, 1..n the objects
    /ground_truth/poses              geometry_msgs/PoseArray in the camera's optical frame (x right, y down, z forward,
                                     meters), in the order of the mask's numbers

and with --depth, as a stereo depth camera measures it and its driver registers it to the color image (stereo_depth.py):

    /camera/aligned_depth_to_color/image_raw      sensor_msgs/Image, 16UC1: millimeters, 0 where unknown
    /camera/aligned_depth_to_color/camera_info    sensor_msgs/CameraInfo
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybullet
import pybullet_data
from numpy.typing import NDArray
from rich.progress import track
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from stereo_depth import as_measured

TABLE = (0.70, 0.50)  # half sizes of the table's top, meters
TABLE_COLOR, FLOOR_COLOR = (176, 152, 122), (96, 98, 102)
FIELD_OF_VIEW = 46.0  # degrees, vertical
NEAR, FAR = 0.05, 5.0  # what the renderer shows, meters
START = 1_700_000_000_000_000_000  # stamp of the first frame, nanoseconds
SLOTS = 4  # objects on the table at once, at most
REACH = (0.30, 0.20)  # objects stay within these half sizes around the table's middle, meters
SHAPES = 1000  # of pybullet_data's random_urdfs


@dataclass(frozen=True)
class Visit:
    """An object's stay on the table."""

    arrives: float
    leaves: float
    path: NDArray[np.float64]  # [2, 2], meters: where it is put down, and where it is pushed to
    pushed: tuple[float, float]  # start and end of the push, seconds
    yaw: tuple[float, float]  # before and after the push, radians
    tilt: tuple[float, float]  # roll and pitch at rest, radians
    size: float  # longest side, meters
    shape: int  # a random_urdf if below SHAPES, else a primitive
    color: tuple[float, float, float]


def plan_visits(seconds: float, rng: np.random.Generator) -> list[Visit]:
    """Plan which objects come and go, so that no two ever touch."""
    visits: list[Visit] = []
    # Three slots start occupied, so that the first frames are not empty.
    free_at = [*rng.uniform(-6.0, 0.0, SLOTS - 1), rng.uniform(0.0, 4.0)]
    while min(free_at) < seconds:
        slot = int(np.argmin(free_at))
        arrives = free_at[slot] + rng.uniform(0.3, 2.5)
        leaves = arrives + rng.uniform(4.0, 10.0)
        size = rng.uniform(0.19, 0.31)
        present = [v for v in visits if v.leaves > arrives]
        path = find_path(size, present, rng)
        free_at[slot] = arrives + 0.5 if path is None else leaves
        if path is None:
            continue
        pushed = arrives + rng.uniform(0.8, 2.0)
        hue, saturation, value = rng.uniform(0, 180), rng.uniform(40, 255), rng.uniform(60, 255)
        bgr = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
        yaw = rng.uniform(-math.pi, math.pi)
        visits.append(
            Visit(
                arrives=arrives,
                leaves=leaves,
                path=path,
                pushed=(pushed, min(pushed + rng.uniform(1.0, 3.0), leaves - 0.5)),
                yaw=(yaw, yaw + rng.uniform(-2.0, 2.0)),
                tilt=(math.pi / 2 * rng.integers(4), math.pi / 2 * rng.integers(2)),
                size=size,
                shape=int(rng.integers(SHAPES + 300)),
                color=(bgr[2] / 255, bgr[1] / 255, bgr[0] / 255),
            )
        )
    return visits


def find_path(size: float, present: list[Visit], rng: np.random.Generator) -> NDArray[np.float64] | None:
    """A path [2, 2] that stays clear of the objects present, or None if there seems to be no room."""
    along = np.linspace(0, 1, 9)[:, None]
    for _ in range(60):
        start = rng.uniform(-1, 1, 2) * REACH
        end = np.clip(start + rng.uniform(-0.18, 0.18, 2), (-REACH[0], -REACH[1]), REACH)
        ours = start + along * (end - start)
        clear = all(
            np.linalg.norm(ours[:, None] - (v.path[0] + along * (v.path[1] - v.path[0]))[None], axis=-1).min()
            > 0.52 * (size + v.size)
            for v in present
        )
        if clear:
            return np.stack([start, end])
    return None


def optical_from_world(view: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position and quaternion of the transform from the world to the optical frame, from OpenGL's view matrix."""
    # OpenGL looks along -z with y up, ROS's optical frames along z with y down.
    matrix = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.reshape(view, (4, 4)).T
    half_vector = cv2.Rodrigues(matrix[:3, :3])[0].ravel() / 2
    half_angle = np.linalg.norm(half_vector)
    return matrix[:3, 3], np.append(half_vector * np.sinc(half_angle / np.pi), np.cos(half_angle))


def ease(x: float) -> float:
    """Smooth step from 0 to 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def write_textures(folder: Path) -> tuple[str, str]:
    """Write wood for the table and concrete for the floor, the same every time; returns the two files."""
    rng = np.random.default_rng(0)
    y = np.linspace(0, 1, 512)[:, None] + cv2.GaussianBlur(rng.normal(0, 0.25, (512, 512)), (0, 0), 40)
    fibers = cv2.GaussianBlur(rng.normal(0, 1, (512, 512)), (0, 0), sigmaX=30, sigmaY=0.8)
    grain = 7 * np.sin(60 * y) + 60 * fibers
    speckle = cv2.GaussianBlur(rng.normal(0, 60, (512, 512)), (0, 0), 1.5)
    files = []
    for name, color, pattern in (("table", TABLE_COLOR, grain), ("floor", FLOOR_COLOR, speckle)):
        image = np.clip(np.array(color[::-1]) + pattern[..., None], 0, 255).astype(np.uint8)
        files.append(str(folder / f"{name}.png"))
        cv2.imwrite(files[-1], image)
    return files[0], files[1]


class Scene:
    """The table in pybullet's renderer, and what the camera sees at a time."""

    def __init__(self, seconds: float, seed: int, width: int, height: int) -> None:
        rng = np.random.default_rng(seed)
        self.visits = plan_visits(seconds, rng)
        self.phases = rng.uniform(0, 2 * math.pi, 6)
        self.noise = np.random.default_rng(rng.integers(2**32))
        self.depth_noise = np.random.default_rng((seed, 1))
        self.width, self.height = width, height
        self.bodies: dict[int, tuple[int, float]] = {}  # visit -> body, height of its origin above the table
        self.client = pybullet.connect(pybullet.DIRECT)
        with tempfile.TemporaryDirectory() as folder:
            table, floor = write_textures(Path(folder))
            self._slab((*TABLE, 0.02), -0.02, table)
            self._slab((3.0, 3.0, 0.02), -0.75, floor)

    def _slab(self, half: tuple[float, float, float], z: float, texture: str) -> None:
        visual = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=half)
        body = pybullet.createMultiBody(baseVisualShapeIndex=visual, basePosition=(0, 0, z))
        pybullet.changeVisualShape(body, -1, textureUniqueId=pybullet.loadTexture(texture), rgbaColor=(1, 1, 1, 1))

    def _load(self, visit: Visit) -> tuple[int, float]:
        """Load an object at its size; returns the body and the height of its origin when it rests on the table."""
        if visit.shape < SHAPES:
            path = f"{pybullet_data.getDataPath()}/random_urdfs/{visit.shape:03d}/{visit.shape:03d}.urdf"
            probe = pybullet.loadURDF(path)
            low, high = pybullet.getAABB(probe)
            pybullet.removeBody(probe)
            body = pybullet.loadURDF(path, globalScaling=visit.size / (np.subtract(high, low).max()))
        else:
            body = self._primitive(visit)
        pybullet.changeVisualShape(body, -1, rgbaColor=(*visit.color, 1))
        rotation = pybullet.getQuaternionFromEuler((*visit.tilt, 0))
        pybullet.resetBasePositionAndOrientation(body, (0, 0, 0), rotation)
        return body, -pybullet.getAABB(body)[0][2]

    def _primitive(self, visit: Visit) -> int:
        radius, length = visit.size * 0.3, visit.size * 0.8
        geometry: dict[str, Any] = (
            {
                "shapeType": pybullet.GEOM_BOX,
                "halfExtents": (visit.size * 0.35, visit.size * 0.25, radius * 0.6),
            },
            {"shapeType": pybullet.GEOM_CYLINDER, "radius": radius, "length": length},
            {"shapeType": pybullet.GEOM_SPHERE, "radius": visit.size * 0.38},
        )[visit.shape % 3]
        collision = pybullet.createCollisionShape(
            **{{"length": "height"}.get(name, name): value for name, value in geometry.items()}
        )
        return int(
            pybullet.createMultiBody(
                baseCollisionShapeIndex=collision, baseVisualShapeIndex=pybullet.createVisualShape(**geometry)
            )
        )

    def _move(self, time: float) -> list[int]:
        """Move every object to where it is at a time; returns the bodies on the table."""
        for number, visit in enumerate(self.visits):
            present = visit.arrives <= time < visit.leaves
            if present and number not in self.bodies:
                self.bodies[number] = self._load(visit)
            elif not present and number in self.bodies:
                pybullet.removeBody(self.bodies.pop(number)[0])
        for number, (body, rest) in self.bodies.items():
            visit = self.visits[number]
            share = ease((time - visit.pushed[0]) / (visit.pushed[1] - visit.pushed[0]))
            x, y = visit.path[0] + share * (visit.path[1] - visit.path[0])
            # Put down and taken away from above, as if by an invisible hand.
            lift = 1 - ease((time - visit.arrives) / 0.5) + ease((time - visit.leaves + 0.5) / 0.5)
            yaw = visit.yaw[0] + share * (visit.yaw[1] - visit.yaw[0])
            rotation = pybullet.multiplyTransforms(
                (0, 0, 0),
                pybullet.getQuaternionFromEuler((0, 0, yaw)),
                (0, 0, 0),
                pybullet.getQuaternionFromEuler((*visit.tilt, 0)),
            )[1]
            pybullet.resetBasePositionAndOrientation(body, (x, y, rest + 0.6 * lift), rotation)
        return [body for body, _ in self.bodies.values()]

    def _view(self, time: float) -> list[float]:
        """View matrix of the camera, which sways a little, as on a robot that stands still but is not rigid."""
        sway = np.sin(2 * math.pi * time * np.array([0.05, 0.07, 0.04, 0.11, 0.09, 0.13]) + self.phases)
        eye = np.array([0.0, -0.60, 0.74]) + np.array([0.035, 0.025, 0.02]) * sway[:3]
        target = np.array([0.0, 0.02, 0.0]) + np.array([0.015, 0.01, 0.0]) * sway[3:]
        view: list[float] = pybullet.computeViewMatrix(eye, target, (0, 0, 1))
        return view

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.height / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))

    def render(self, time: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Any], NDArray[np.float64]]:
        """Image RGB [H, W, 3], mask [H, W] with 0 for the background and 1..n for the objects, the objects' poses, and
        true depth [H, W] in meters.

        A pose is a position (meters) and a quaternion (x, y, z, w) in the optical frame.
        """
        bodies = self._move(time)
        aspect = self.width / self.height
        view = self._view(time)
        _, _, rgba, buffer, segmentation = pybullet.getCameraImage(
            self.width,
            self.height,
            view,
            pybullet.computeProjectionMatrixFOV(FIELD_OF_VIEW, aspect, NEAR, FAR),
            lightDirection=(0.6, -0.5, 1.4),
            lightAmbientCoeff=0.55,
            lightDiffuseCoeff=0.5,
            lightSpecularCoeff=0.15,
            shadow=1,
            renderer=pybullet.ER_TINY_RENDERER,
        )
        rgb = np.reshape(rgba, (self.height, self.width, 4))[:, :, :3].astype(np.float32)
        rgb = cv2.GaussianBlur(rgb, (3, 3), 0.6) + self.noise.normal(0, 2.5, rgb.shape)
        segmentation = np.reshape(segmentation, (self.height, self.width))
        mask = np.zeros((self.height, self.width), np.uint8)
        for number, body in enumerate(bodies, start=1):
            mask[segmentation == body] = number
        camera = optical_from_world(view)
        poses = [pybullet.multiplyTransforms(*camera, *pybullet.getBasePositionAndOrientation(b)) for b in bodies]
        nearness = np.reshape(buffer, mask.shape).astype(np.float64)  # OpenGL's depth buffer: 0 is NEAR, 1 is FAR
        depth = FAR * NEAR / (FAR - (FAR - NEAR) * nearness)
        return np.clip(rgb, 0, 255).astype(np.uint8), mask, poses, depth

    def close(self) -> None:
        pybullet.disconnect(self.client)


def messages(
    scene: Scene, seconds: float, rate: float, with_depth: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each frame, its stamp in nanoseconds and the message of each topic."""
    types = get_typestore(Stores.ROS2_JAZZY).types
    header_type, time_type = types["std_msgs/msg/Header"], types["builtin_interfaces/msg/Time"]
    compressed = types["sensor_msgs/msg/CompressedImage"]
    point, quaternion = types["geometry_msgs/msg/Point"], types["geometry_msgs/msg/Quaternion"]
    # The renderer's principal point, measured with pixel centers at whole numbers.
    k = np.array([scene.focal, 0, scene.width / 2, 0, scene.focal, scene.height / 2 - 1, 0, 0, 1.0])
    p = np.insert(k, [3, 6, 9], 0.0)
    region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    for number in track(range(round(seconds * rate)), description="rendering"):
        stamp = START + round(number / rate * 1e9)
        rgb, mask, poses, depth = scene.render(number / rate)
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
        png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]

        def header(frame: str, stamp: int = stamp) -> Any:
            return header_type(time_type(*divmod(stamp, 1_000_000_000)), frame)

        info = types["sensor_msgs/msg/CameraInfo"](
            header("camera"), scene.height, scene.width, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), p, 0, 0, region
        )
        frame = {
            "/camera/image_raw/compressed": compressed(header("camera"), "jpeg", jpeg.ravel()),
            "/camera/camera_info": info,
            "/ground_truth/mask/compressed": compressed(header("camera"), "png", png.ravel()),
            "/ground_truth/poses": types["geometry_msgs/msg/PoseArray"](
                header("camera"),
                [types["geometry_msgs/msg/Pose"](point(*at), quaternion(*turn)) for at, turn in poses],
            ),
        }
        if with_depth:
            measured = as_measured(depth, rgb, scene.focal, scene.depth_noise)
            frame["/camera/aligned_depth_to_color/image_raw"] = types["sensor_msgs/msg/Image"](
                header("camera"), *measured.shape, "16UC1", 0, 2 * scene.width, measured.view(np.uint8).ravel()
            )
            frame["/camera/aligned_depth_to_color/camera_info"] = info
        yield stamp, frame


def write_bag(out: Path, frames: Iterable[tuple[int, dict[str, Any]]]) -> None:
    """Write each frame's stamp in nanoseconds and messages by topic; the bag appears under its name when complete."""
    store = get_typestore(Stores.ROS2_JAZZY)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with Writer(temporary, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for stamp, by_topic in frames:
            for topic, message in by_topic.items():
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
                raw = store.serialize_cdr(message, message.__msgtype__)
                writer.write(connections[topic], stamp, raw)
    # rosbag2 names the storage file after the folder, and metadata.yaml names the storage file.
    metadata = temporary / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(f"{temporary.name}.mcap", f"{out.name}.mcap"))
    (temporary / f"{temporary.name}.mcap").rename(temporary / f"{out.name}.mcap")
    os.replace(temporary, out)


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the rosbag2 to write")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=15.0, help="frames per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="320x240", help="WxH in pixels")
    parser.add_argument("--depth", action="store_true", help="write depth as a stereo camera measures it, too")
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"{options.out} exists already: remove it or choose another name.")
    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        sys.exit(f"--size {options.size} is not WxH: write for example 320x240.")
    if options.seconds * options.rate < 1 or options.seed < 0:
        sys.exit("--seconds and --rate must give at least one frame, and --seed must not be negative.")
    scene = Scene(options.seconds, options.seed, int(width), int(height))
    write_bag(options.out, messages(scene, options.seconds, options.rate, options.depth))
    scene.close()


if __name__ == "__main__":
    main()
