"""Rendered tables with ten objects that are always the same: some on each, at other places and turned otherwise."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from render_table import REACH, Scene, Visit

SHAPES = (1000, 1001, 1002, 17, 120, 333, 451, 640, 808, 977)
"""Of render_table: a cylinder, a ball, a box, seven of pybullet's random shapes."""
NAMES = tuple(f"object{number}" for number in range(len(SHAPES)))
LASTS = 1.2
"""Seconds for which a table stays; it is looked at in the middle."""
CLEAR = 0.4
"""Distance of two objects in units of the sum of their sizes; at 0.52 none hides a part of another."""


class Table(NamedTuple):
    """What the camera sees."""

    rgb: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    """What is visible of each object, by name; those that are not on the table are missing."""


def tables(count: int, seed: int, size: tuple[int, int] = (320, 240)) -> Iterator[Table]:
    """So many tables with two to five of the objects on each; `size` is width and height in pixels."""
    rng = np.random.default_rng(seed)
    visits, shown = [], []
    for number in range(count):
        for index, place in _places(rng):
            yaw = rng.uniform(-math.pi, math.pi)
            visits.append(visit(index, place, yaw, 2 * number - LASTS / 2, 2 * number + LASTS / 2))
            shown.append(index)
    yield from render(visits, shown, [2.0 * number for number in range(count)], seed, size)


def visit(index: int, place: Sequence[float], yaw: float, arrives: float, leaves: float) -> Visit:
    """A stay of an object, without a push."""
    hue = np.array([[[18 * index, 150 + 50 * (index % 3), 110 + 60 * (index % 2)]]], np.uint8)
    blue, green, red = (cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0] / 255).tolist()
    size = 0.2 + 0.01 * index
    path = np.array([place, place], np.float64)
    return Visit(
        arrives, leaves, path, (arrives, leaves), (yaw, yaw), (0.0, 0.0), size, SHAPES[index], (red, green, blue)
    )


def render(
    visits: list[Visit], shown: Sequence[int], times: Sequence[float], seed: int, size: tuple[int, int]
) -> Iterator[Table]:
    """The tables at these times; `shown` says which object each visit is of."""
    scene = Scene(0.0, seed, *size)
    scene.visits = visits
    try:
        for time in times:
            rgb, mask, *_ = scene.render(time)
            names = [NAMES[shown[number]] for number in scene.bodies]
            yield Table(rgb, {name: mask == number for number, name in enumerate(names, start=1)})
    finally:
        scene.close()


def _places(rng: np.random.Generator) -> list[tuple[int, NDArray[np.float64]]]:
    """Which objects are on a table, and where."""
    placed: list[tuple[int, NDArray[np.float64]]] = []
    for index in rng.permutation(len(SHAPES))[: rng.integers(2, 6)].tolist():
        for _ in range(60):
            place = rng.uniform(-1, 1, 2) * REACH
            sizes = [0.4 + 0.01 * (index + other) for other, _ in placed]
            apart = [np.linalg.norm(place - at) for _, at in placed]
            if all(distance > CLEAR * size for distance, size in zip(apart, sizes, strict=True)):
                placed.append((index, place))
                break
    return placed
