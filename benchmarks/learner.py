"""Learning on the robot: a rendered table whose objects, light and top change, with the learner and without it.

    python benchmarks/learner.py table_vit_micro_8 --out runs/learner

A camera that gives one frame a second. After the first minutes come other objects, another light and another table.
The learner's own parts run as in its node, without ROS: the reservoir, the state machine, and its commands in processes
of their own. A second of the film passes in no less than a second while one of them runs, and at once otherwise. Each
frame is scored before the learner sees it, by the given student and by the one that runs: IoU of the mask with the true
one. Writes OUT/learner.json, OUT/learner.png and OUT/pictures.jpg.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from dino_ros.files import write_whole
from dino_ros.images.overlay import overlay
from dino_ros.learning.jobs import Job
from dino_ros.learning.learner import COLLECTING, TRAINING, Learner, Report, Settings
from dino_ros.learning.reservoir import Reservoir
from dino_ros.masks.binary import jaccard
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver

mpl.use("Agg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import render_table

WIDTH, HEIGHT = 320, 240
ALONE = MaskParameters(steady=0.0)
"""Frames a second apart do not continue one another."""
SMOOTHED = 30
"""Seconds over which the curves are averaged."""
SHOWN = (20, 60)
"""Seconds after the change of which pictures are drawn, and the last."""


def film(
    minutes: Sequence[float], changed_table: Sequence[int], changed_light: Sequence[float]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """One image RGB [H, W, 3] and its true mask [H, W] for each second: before the change, and after it.

    After it the table's top has the RGB `changed_table`, and red, green and blue are times `changed_light`.
    """
    before, after = (round(60 * part) for part in minutes)
    for seconds, seed, table, light in (
        (before, 11, render_table.TABLE_COLOR, (1.0, 1.0, 1.0)),
        (after, 12, changed_table, changed_light),
    ):
        render_table.TABLE_COLOR = tuple(table)
        scene = render_table.Scene(seconds, seed, WIDTH, HEIGHT)
        for second in range(seconds):
            rgb, mask, _, _ = scene.render(float(second))
            yield (rgb * np.array(light)).astype(np.uint8), mask > 0
        scene.close()


class Robot:
    """Runs a student, and takes another at once."""

    def __init__(self, student: Perceiver) -> None:
        self.student = student

    def ask(self, model: str) -> bool:
        """Run the student of that file."""
        self.student = Perceiver.load(model, "onnxruntime")
        return True

    def answer(self) -> str:
        """It never refuses."""
        return ""


def iou(student: Perceiver, rgb: NDArray[np.uint8], truth: NDArray[np.bool_]) -> float:
    """IoU of a student's mask with the true one."""
    mask = student(rgb, ("mask",), ALONE).mask
    assert mask is not None  # it was asked for
    return jaccard(mask > 0, truth)


def picture(student: Perceiver, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with the student's attention and the outline of its mask."""
    seen = student(rgb, ("mask", "attention"), ALONE)
    assert seen.mask is not None  # it was asked for
    assert seen.attention is not None
    return overlay(rgb, seen.mask, seen.attention)


def draw(out: Path, rows: NDArray[np.float64], change: int, swaps: list[int]) -> None:
    """The two curves over time."""
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    minutes = np.arange(len(rows)) / 60
    for values, name in zip(rows.T, ("without", "with the learner"), strict=True):
        # Of the seconds before, and none across the change.
        parts = np.split(values, [change])
        means = [[part[max(i - SMOOTHED, 0) : i + 1].mean() for i in range(len(part))] for part in parts]
        axes.plot(minutes, np.concatenate(means), label=name)
    axes.axvline(change / 60, color="black", linewidth=1, label="objects, light and table change")
    for number, swap in enumerate(swaps):
        axes.axvline(swap / 60, color="gray", linestyle=":", label=None if number else "another student takes over")
    axes.set(xlabel="minutes", ylabel=f"mask IoU, mean of {SMOOTHED} s", ylim=(0, 1))
    axes.legend(loc="lower left")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Run the film, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", help="student file, or name of a bundled student, that the robot is given")
    parser.add_argument("--out", type=Path, required=True, help="folder for numbers, pictures and what is kept")
    parser.add_argument("--minutes", type=float, nargs=2, default=(3, 9), help="before the change, and after it")
    parser.add_argument("--table", type=int, nargs=3, default=(120, 140, 150), help="RGB of the table's top after it")
    parser.add_argument(
        "--light", type=float, nargs=3, default=(0.85, 0.8, 0.7), help="factors of red, green and blue after it"
    )
    parser.add_argument("--fewest", type=int, default=100, help="images that must be new for each round")
    options = parser.parse_args()
    folder = (options.out / "seen").absolute()
    reservoir = Reservoir(folder, 200_000_000)
    given, eye = Perceiver.load(options.student, "onnxruntime"), Perceiver.load(backend="onnxruntime")
    robot = Robot(given)
    settings = Settings(fewest=options.fewest, trial=10)
    learner = Learner(folder, reservoir, robot, settings, Job)
    change = round(60 * options.minutes[0])
    rows: list[list[float]] = []
    events: list[tuple[int, str]] = []
    swaps: list[int] = []
    training = 0.0
    pictures: list[NDArray[np.uint8]] = []
    frames = [*film(options.minutes, options.table, options.light)]
    for second, (rgb, truth) in enumerate(frames):
        begun = time.monotonic()
        if robot.student is given or not rows:
            rows.append([iou(given, rgb, truth)] * 2)
        else:
            rows.append([iou(given, rgb, truth), iou(robot.student, rgb, truth)])
        if second - change in SHOWN or second == len(frames) - 1:
            pictures.append(np.hstack([picture(student, rgb) for student in (given, robot.student)]))
        reservoir.offer(rgb, lambda image: eye(image, ("embedding",)).embedding)  # type: ignore[arg-type, return-value]
        state, student = learner.state, robot.student
        learner.tick(Report(str(robot.student.path), 10.0))
        if learner.state.step != state.step:
            outcome = f": {learner.state.outcome}" if learner.state.step == COLLECTING else ""
            events.append((second, f"{learner.state.step}{outcome}"))
            print(f"{second} s: {events[-1][1]} {learner.state.scores or ''}", flush=True)
        if robot.student is not student:
            swaps.append(second)
        if learner.state.step == TRAINING:
            time.sleep(max(1.0 - (time.monotonic() - begun), 0.0))
            training += time.monotonic() - begun
    learner.stop()
    scores = np.array(rows)
    last = change + (len(rows) - change) // 2
    result = {
        "student": options.student,
        "fewest": options.fewest,
        "table, light after the change": [options.table, options.light],
        "seconds": {"before": change, "after": len(rows) - change, "training": round(training)},
        "iou without, with": {
            "before the change": scores[:change].mean(axis=0).round(3).tolist(),
            "after it": scores[change:].mean(axis=0).round(3).tolist(),
            "last half after it": scores[last:].mean(axis=0).round(3).tolist(),
        },
        "images": reservoir.kept,
        "events": events,
    }
    print(json.dumps(result, indent=1))
    write_whole(options.out / "learner.json", json.dumps(result, indent=1).encode())
    draw(options.out / "learner.png", scores, change, swaps)
    cv2.imwrite(str(options.out / "pictures.jpg"), np.vstack(pictures)[:, :, ::-1])


if __name__ == "__main__":
    main()
