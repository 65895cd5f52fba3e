"""Do objects that leave, or pass behind something, get their numbers back, and do new ones get another's?

    python benchmarks/object_numbers.py --data davis2016

Three kinds of films whose objects are known. *Tables*: rendered; of the objects that come, half were there before, and
lie elsewhere and turned. *Hidden*: sequences of DAVIS, the object painted over in the middle third. *Spliced*: the
middle of one sequence between the two ends of another, each pair once. Objects are numbered from the true masks, and
from the student's own; by overlap with the previous frame alone, with the place where an object was seen last as its
memory, and as the node does it. Constants may be chosen on the first half of the tables and of the sequences; printed
is the second.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from scipy.optimize import linear_sum_assignment

from dino_ros.images.stamps import SECOND
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.memory import Memory
from dino_ros.masks.parameters import MaskParameters
from dino_ros.masks.track import Track
from dino_ros.perception.perceiver import Perceiver

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from render_table import Scene, Visit, plan_visits

SIZE = (320, 240)
RATE = 5
"""Frames of a table per second."""
SECONDS = 120
"""Length of the film of each half's table."""
BEFORE = 0.6
"""Share of those that come to a table which were there before, if one was."""
PAUSE = 10 / 24
"""Seconds between two frames of DAVIS, of which every tenth is at hand."""
LEAST = 1 / 200
"""Share of the image that an object must fill to be looked for."""
NEAR = 0.15
"""For the baseline: share of the image's width within which an object is the one that was lost there."""
WAYS = ("overlap", "place", "node")


class Frame(NamedTuple):
    """A frame of a film."""

    rgb: NDArray[np.uint8]
    truth: NDArray[np.uint16]
    """[H, W]: which object is there, the same number for it in the whole film; 0 for none."""
    stamp: int


class Places(Memory):
    """The baseline: what appears is what was lost nearest to it, wherever it was seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[int, tuple[int, NDArray[Any]]] = {}

    def move_on(self, stamp: int, seconds: float) -> None:
        self.stamp = stamp
        self.places = {n: (seen, at) for n, (seen, at) in self.places.items() if stamp - seen <= seconds * SECOND}
        self.numbers = np.array([*self.places], np.int64)

    def see(self, objects: NDArray[np.uint16], features: NDArray[np.float32], rgb: NDArray[np.uint8]) -> dict[int, int]:
        middles = {n: np.argwhere(objects == n).mean(axis=0) for n in np.unique(objects[objects > 0]).tolist()}
        new, lost = [n for n in middles if n not in self.places], [n for n in self.places if n not in middles]
        pairs = sorted(
            (np.linalg.norm(middles[n] - self.places[o][1]) / objects.shape[1], n, o) for n in new for o in lost
        )
        back: dict[int, int] = {}
        for distance, number, old in pairs:
            if distance < NEAR and number not in back and old not in back.values():
                back[number] = old
        self.places.update({back.get(n, n): (self.stamp, middle) for n, middle in middles.items()})
        return back


def table(seconds: float, seed: int) -> Iterator[Frame]:
    """Objects that come, are pushed about and go, and come again."""
    rng = np.random.default_rng(seed)
    visits: list[Visit] = []
    who: list[int] = []
    for visit in plan_visits(seconds, rng):
        left = {one: max(v.leaves for v, w in zip(visits, who, strict=True) if w == one) for one in who}
        away = [one for one, time in left.items() if time + 0.5 < visit.arrives]
        one = int(rng.choice(away)) if away and rng.random() < BEFORE else len(visits)
        if one < len(visits):
            like = visits[one]
            visit = dataclasses.replace(visit, size=like.size, shape=like.shape, color=like.color, tilt=like.tilt)
        visits.append(visit)
        who.append(one)
    scene = Scene(0.0, seed, *SIZE)
    scene.visits = visits
    try:
        for number in range(round(seconds * RATE)):
            rgb, mask, *_ = scene.render(number / RATE)
            shown = np.array([0, *(who[body] + 1 for body in scene.bodies)], np.uint16)
            yield Frame(rgb, shown[mask], number * SECOND // RATE)
    finally:
        scene.close()


def sequences(data: Path) -> dict[str, list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]]:
    """The frames of each sequence of DAVIS that are ten apart, and where its object is."""
    found = {}
    for folder in sorted((data / "masks").iterdir()):
        files = [file for file in sorted(folder.iterdir()) if int(file.stem) % 10 == 0]
        found[folder.name] = [
            (
                cv2.imread(str(data / "images" / folder.name / f"{file.stem}.jpg"))[:, :, ::-1].copy(),
                cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 127,
            )
            for file in files
        ]
    return found


def hidden(sequence: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> list[Frame]:
    """The sequence, its object painted over in the middle third."""
    frames = []
    for number, (rgb, mask) in enumerate(sequence):
        if len(sequence) // 3 <= number < len(sequence) - len(sequence) // 3:
            rgb = cv2.inpaint(rgb, cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)), 5, cv2.INPAINT_TELEA)
            mask = np.zeros_like(mask)
        frames.append(Frame(rgb.astype(np.uint8), mask.astype(np.uint16), round(number * PAUSE * SECOND)))
    return frames


def spliced(
    around: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    between: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
) -> list[Frame]:
    """The first two frames of one sequence, three of another, and the last two of the first."""
    middle = len(between) // 2
    shots = [(*shot, 1) for shot in around[:2]]
    shots += [(*shot, 2) for shot in between[middle - 1 : middle + 2]]
    shots += [(*shot, 1) for shot in around[-2:]]
    return [
        Frame(rgb, number * mask.astype(np.uint16), round(n * PAUSE * SECOND))
        for n, (rgb, mask, number) in enumerate(shots)
    ]


class Student:
    """Runs the student, and keeps what it said of each image."""

    def __init__(self, name: str) -> None:
        self.perceiver = Perceiver.load(name)
        self.request = self.perceiver.request(["features", "objects"])
        self._kept: dict[bytes, dict[str, NDArray[np.float32]]] = {}

    def __call__(self, rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        image = self.perceiver.prepare_image(rgb).input
        key = image.tobytes()
        if key not in self._kept:
            self._kept[key] = self.perceiver.infer([image], sorted(self.request.student_outputs))[0]
        return self._kept[key]


def number(film: Sequence[Frame], student: Student, own: bool, way: str) -> list[NDArray[np.uint16]]:
    """The numbers [H, W] in each frame: of the student's own masks, or of the true ones."""
    parameters = student.request.mask if own else MaskParameters(refine=False, steady=0.0)
    parameters = dataclasses.replace(parameters, remember=0.0) if way == "overlap" else parameters
    maker, track = MaskMaker(), Track()
    if way == "place":
        track.memory = Places()
    numbers = []
    for frame in film:
        outputs = student(frame.rgb)
        view = maker.see(frame.truth.shape, frame.rgb, frame.stamp, parameters, True, outputs["features"])
        assert view.small is not None
        if own:
            grid = outputs["foreground"]
        else:
            shape = view.small.shape[1::-1]
            grid = large_parts(cv2.resize(frame.truth, shape, interpolation=cv2.INTER_NEAREST))
        objects = track(grid, view, parameters, True).objects
        assert objects is not None  # they were asked for
        numbers.append(objects)
    return numbers


def large_parts(truth: NDArray[Any]) -> NDArray[np.float32]:
    """The true mask: 1 where there is something, 0 in parts that are too small for an object."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats((truth > 0).astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= LEAST * truth.size
    return (large[parts] & (truth > 0)).astype(np.float32)


def judged(truth: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The objects that are large enough to be looked for."""
    large = np.bincount(truth.ravel()) >= LEAST * truth.size
    return np.where(large[truth], truth, 0).astype(np.uint16)


def score(film: Sequence[Frame], numbers: Sequence[NDArray[np.uint16]]) -> Counter[str]:
    """Counts of a film: of IDF1, and of what number an object gets when it comes, for the first time or again."""
    pairs: Counter[tuple[int, int]] = Counter()
    stays: list[tuple[int, list[int]]] = []
    before: dict[int, list[int]] = {}
    there = said = 0
    for frame, given in zip(film, numbers, strict=True):
        truth = judged(frame.truth)
        objects, said_here = (np.unique(values[values > 0]).tolist() for values in (truth, given))
        there, said = there + len(objects), said + len(said_here)
        here: dict[int, list[int]] = {}
        for one in objects:
            here[one] = before.get(one, [])
            if one not in before:
                stays.append((one, here[one]))
            for it in np.unique(given[(truth == one) & (given > 0)]).tolist():
                if jaccard(truth == one, given == it) > 0.5:
                    pairs[one, it] += 1
                    here[one].append(it)
        before = here
    table = np.zeros([max((pair[i] for pair in pairs), default=0) + 1 for i in (0, 1)])
    for pair, count in pairs.items():
        table[pair] = count
    true = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return Counter(true=true, there=there, said=said) + arrivals(stays)


def arrivals(stays: Sequence[tuple[int, list[int]]]) -> Counter[str]:
    """What number the objects got that came: at each stay the one that it had in most of its frames."""
    counts: Counter[str] = Counter()
    last: dict[int, int] = {}
    owners: dict[int, int] = {}
    for one, numbers in stays:
        if numbers:
            now = Counter(numbers).most_common(1)[0][0]
            came = "back" if one in last else "new"
            anothers = owners.setdefault(now, one) != one
            counts.update([came, *[f"{came}, another's"] * anothers, *[f"{came}, its number"] * (last.get(one) == now)])
            last[one] = now
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, number, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", default=["table_vit_micro_8", "scenes_vit_small_20"])
    parser.add_argument("--data", type=Path, required=True, help="folder of DAVIS 2016: images/ and masks/")
    parser.add_argument("--half", type=int, choices=(1, 2), default=2, help="1: on which constants may be chosen")
    options = parser.parse_args(arguments)
    known = [*sequences(options.data).values()][options.half - 1 :: 2]
    films = {
        "tables": [list(table(SECONDS, options.half))],
        "hidden": [hidden(one) for one in known],
        "spliced": [spliced(*two) for two in permutations(known, 2)],
    }
    columns = ("IDF1", "ID recall", "ID precision", "back", "its number", "another's", "new", "another's")
    printed = RichTable("films", "student", "masks", "numbered by", *columns)
    for name in options.students:
        student = Student(name)
        for kind, some in films.items():
            for own in (False, True):
                for way in WAYS:
                    total: Counter[str] = Counter()
                    for film in some:
                        total += score(film, number(film, student, own, way))
                    row = [
                        f"{2 * total['true'] / (total['there'] + total['said']):.3f}",
                        f"{total['true'] / total['there']:.3f}",
                        f"{total['true'] / total['said']:.3f}",
                        *(str(total[key]) for key in ("back", "back, its number", "back, another's")),
                        *(str(total[key]) for key in ("new", "new, another's")),
                    ]
                    printed.add_row(kind, name, "own" if own else "true", way, *row)
                    print(kind, name, "own" if own else "true", way, *row, flush=True)
    Console(width=160).print(printed)


if __name__ == "__main__":
    main()
