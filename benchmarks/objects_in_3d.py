"""How far off are the depth node's boxes, and how long do they take? On rendered tables, whose objects are known.

    python benchmarks/objects_in_3d.py --seeds 6

Renders `examples/render_table.py`'s scenes at 640x480 with depth as a stereo camera measures it, and compares what
`dino_ros.depth` makes of it, with true masks and with those of the default student, to the smallest upright box
around each object's mesh. Counted are objects that rest on the table, wholly in the image, with less than 3 % behind
others; of the student's masks those whose IoU with the object is at least one half. The baseline is what is often
written: for each object a mask of the whole image, the median of its points, and a box along their principal axes.
Milliseconds are those of the CPU, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybullet
from numpy.typing import NDArray
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from render_table import Scene
from stereo_depth import as_measured

from dino_ros import Perceiver
from dino_ros.depth.images import Pinhole
from dino_ros.depth.objects import locate
from dino_ros.depth.surface import Surface
from dino_ros.masks.objects import SMALLEST, number_objects

SIZE = (640, 480)
STEP = 1.2  # seconds between two frames
WARM_UP = 5  # frames whose time does not count

Boxes = dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By number, the middle and the sides of a box: the shorter and the longer horizontal one, and the height."""


def ours(depth: NDArray[np.uint16], numbers: NDArray[np.uint16], camera: Pinhole) -> Boxes:
    """The boxes of dino_ros.depth."""
    surface = Surface(depth.astype(np.float32) * np.float32(0.001), camera)
    found = locate(surface, [numbers])[0]
    return {one.points.number: (one.box.center, one.box.size[[1, 0, 2]]) for one in found}


def baseline(depth: NDArray[np.uint16], numbers: NDArray[np.uint16], camera: Pinhole) -> Boxes:
    """The median of each object's points, and the extents along their principal axes, by rising length."""
    boxes: Boxes = {}
    meters = depth / 1000
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    x, y = (columns - camera.cx) / camera.fx * meters, (rows - camera.cy) / camera.fy * meters
    for number in np.unique(numbers[numbers > 0]).tolist():
        inside = (numbers == number) & (meters > 0)
        points = np.stack([x[inside], y[inside], meters[inside]], axis=1)
        if len(points) < 30:
            continue
        axes = np.linalg.eigh(np.cov(points.T))[1]
        extents = np.ptp(points @ axes, axis=0)
        boxes[number] = np.median(points, axis=0), extents[[1, 2, 0]]
    return boxes


def vertices(body: int) -> NDArray[np.float64]:
    """The vertices of a body's shape [N, 3] in the world's frame."""
    _, _, kind, sides, file, at, turn, *_ = pybullet.getVisualShapeData(body)[0]
    if kind == pybullet.GEOM_MESH:
        lines = Path(file.decode()).read_text().splitlines()
        points = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float) * sides
    elif kind == pybullet.GEOM_BOX:
        points = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3) * sides
    elif kind == pybullet.GEOM_CYLINDER:
        around = np.linspace(0, 2 * np.pi, 64)
        ring = sides[1] * np.stack([np.cos(around), np.sin(around)], axis=1)
        points = np.vstack([np.column_stack([ring, np.full(64, z)]) for z in (-sides[0] / 2, sides[0] / 2)])
    else:
        directions = np.random.default_rng(0).normal(size=(4000, 3))
        points = sides[0] * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    points = points @ np.reshape(pybullet.getMatrixFromQuaternion(turn), (3, 3)).T + at
    position, orientation = pybullet.getBasePositionAndOrientation(body)
    return np.asarray(points @ np.reshape(pybullet.getMatrixFromQuaternion(orientation), (3, 3)).T + position)


def true_boxes(scene: Scene, at: float, mask: NDArray[np.uint8], camera: Pinhole) -> Boxes:
    """The smallest upright boxes around those objects that count, their middles in the camera's frame."""
    boxes: Boxes = {}
    to_camera = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.reshape(scene._view(at), (4, 4)).T
    for number, (visit_number, (body, _)) in enumerate(scene.bodies.items(), start=1):
        visit, seen = scene.visits[visit_number], mask == number
        if not visit.arrives + 0.5 <= at < visit.leaves - 0.5:
            continue
        mesh = vertices(body)
        in_camera = mesh @ to_camera[:3, :3].T + to_camera[:3, 3]
        rows, columns, inside = camera.pixels(in_camera)
        whole = np.zeros(mask.shape, np.uint8)
        cv2.fillConvexPoly(whole, cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32)), 1)
        hidden = np.count_nonzero(whole.astype(bool) & (mask > 0) & ~seen)
        if not inside.all() or not seen.any() or hidden > 0.03 * np.count_nonzero(seen):
            continue
        (x, y), sides, _ = cv2.minAreaRect(mesh[:, :2].astype(np.float32))
        low, high = mesh[:, 2].min(), mesh[:, 2].max()
        center = to_camera[:3, :3] @ [x, y, (low + high) / 2] + to_camera[:3, 3]
        boxes[number] = center, np.array([*sorted(sides), high - low])
    return boxes


def matches(truth: NDArray[np.uint8], found: NDArray[np.uint16]) -> dict[int, int]:
    """For each true object, the number of the found one with which it has an IoU of at least one half."""
    pairs = {}
    for number in np.unique(truth[truth > 0]).tolist():
        inside = truth == number
        candidates = np.unique(found[inside & (found > 0)]).tolist()
        for other in candidates:
            same = found == other
            if np.count_nonzero(inside & same) >= 0.5 * np.count_nonzero(inside | same):
                pairs[number] = other
    return pairs


class Errors:
    """What a method made of all frames."""

    def __init__(self, method: Callable[..., Boxes]) -> None:
        self._method = method
        self.centers: list[float] = []
        self.sizes: list[NDArray[np.float64]] = []
        self._ms: list[float] = []
        self.missed = 0

    def add(
        self, depth: Any, numbers: NDArray[np.uint16], camera: Pinhole, truth: Boxes, pairs: dict[int, int]
    ) -> None:
        """Locate the objects of a frame, by the time of the CPU, and compare them."""
        start = time.process_time()
        boxes = self._method(depth, numbers, camera)
        self._ms.append((time.process_time() - start) * 1e3)
        for number, (center, size) in truth.items():
            if (found := boxes.get(pairs.get(number, -1))) is None:
                self.missed += 1
                continue
            self.centers.append(float(np.linalg.norm(found[0] - center)))
            self.sizes.append(found[1] / size - 1)

    def row(self, name: str) -> str:
        """A row of the table."""
        centers, sizes, ms = np.array(self.centers) * 100, np.abs(self.sizes), np.array(self._ms[WARM_UP:])
        middle, tail = np.percentile(centers, [50, 90])
        sides = " / ".join(f"{value:.1%}" for value in np.median(sizes, axis=0))
        return (
            f"| {name} | {len(centers)} of {len(centers) + self.missed} | {middle:.1f} | {tail:.1f} "
            f"| {(centers < 1).mean():.0%} | {sides} | {(sizes < 0.1).mean():.0%} "
            f"| {np.median(ms):.1f} | {np.percentile(ms, 99):.1f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="scenes of 20 seconds")
    parser.add_argument("--model", default="", help="student; the default one if left out")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    perceiver = Perceiver.load(options.model)
    rows = {
        (masks, name): Errors(method)
        for masks in ("true", "the student's")
        for name, method in (("dino_ros.depth", ours), ("baseline", baseline))
    }
    for seed in track(range(options.seeds), description="scenes"):
        scene = Scene(20.0, seed, *SIZE)
        camera = Pinhole(*SIZE, scene.focal, scene.focal, SIZE[0] / 2, SIZE[1] / 2 - 1)
        for at in np.arange(STEP, 20.0, STEP):
            rgb, mask, _, exact = scene.render(at)
            depth = as_measured(exact, rgb, scene.focal, scene.depth_noise)
            truth = true_boxes(scene, at, mask, camera)
            perception = perceiver(rgb)
            smallest = SMALLEST * mask.size / perception.attention[0].size
            numbers = number_objects(perception.mask, smallest, None, 1)[0]
            for (masks, _), errors in rows.items():
                used = mask.astype(np.uint16) if masks == "true" else numbers
                pairs = {number: number for number in truth} if masks == "true" else matches(mask, numbers)
                errors.add(depth, used, camera, truth, pairs)
        scene.close()
    columns = "masks, boxes, objects, center: median (cm), 90 % (cm), within 1 cm, sides: median, within 10 %, ms, p99"
    print(f"| {columns.replace(', ', ' | ')} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (masks, name), errors in rows.items():
        print(errors.row(f"{masks} | {name}"))


if __name__ == "__main__":
    main()
