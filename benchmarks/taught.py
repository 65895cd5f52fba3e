"""Objects taught on one rendered table, looked for on others: found, absent, how sure, how fast.

    python benchmarks/taught.py scenes_vit_small_20 table_vit_micro_8 --out runs/taught

Ten objects, two to five of them on each table. Each is taught by one look and by three, by its true mask and by a
click, all ten names at once, and looked for on other tables. The tables do not continue one another, so that every one
gets a new finder; the background that was seen is kept. The second half of the tables gives the scores: constants may
be chosen on the first. Writes OUT/taught.json and a sheet of pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable

from dino_ros.files import write_whole
from dino_ros.images.overlay import overlay
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.taught.background import Background
from dino_ros.taught.click import object_at
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look, look_at
from dino_train.evaluation.segmentation.taught_objects import patch_tokens

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tables import NAMES, Table, tables
from taught_baselines import SiftObject, middle, sift_points

TAUGHT, SEARCHED = 40, 60
"""Tables to teach from, and to look on."""
LOOKS = (1, 3)
VISIBLE = 100
"""Pixels of 320x240 that must be seen of an object for it to be in view; with fewer but some it is not judged."""
STEPS = MaskParameters(steady=0.0)
NOTHING = np.zeros((1, 1, 1), np.float32)


class Answer(NamedTuple):
    """What was said of an object on a table, and what is true."""

    there: bool
    score: float
    iou: float


def by_mask(table: Table, name: str, features: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The object's true mask."""
    return table.masks[name].astype(np.uint8)


def by_click(table: Table, name: str, features: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What a click on the object's middle takes."""
    mask = table.masks[name].astype(np.uint8)
    y, x = middle(mask)
    height, width = mask.shape
    rows, columns = features.shape[:2]
    found = object_at(features, y * rows // height, x * columns // width)
    return cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def first_views(shown: Sequence[Table], count: int) -> dict[str, list[int]]:
    """By name the first tables on which each object is in view."""
    views: dict[str, list[int]] = {}
    for name in NAMES:
        seen = [n for n, table in enumerate(shown) if name in table.masks and table.masks[name].sum() >= VISIBLE]
        views[name] = seen[:count]
    return views


def judged(table: Table, name: str) -> bool:
    """Whether it is clear if the object is in view."""
    return name not in table.masks or not 0 < table.masks[name].sum() < VISIBLE


def find(
    looks: dict[str, list[Look]], searched: Iterable[tuple[Table, NDArray[np.float32]]]
) -> tuple[list[Answer], list[float]]:
    """The answers for every object on every table, and the milliseconds of every table."""
    background: Background | None = None
    answers, times = [], []
    for table, features in searched:
        background = background or Background(features.shape[-1])
        finder = Finder(looks, background)
        started = time.perf_counter()
        found = finder(features)
        times.append(1e3 * (time.perf_counter() - started))
        maker = MaskMaker()
        view = maker.see(table.rgb.shape[:2], table.rgb, 0, STEPS)
        masks = maker.make_named({name: one.soft for name, one in found.items()}, view, STEPS)
        for name, one in found.items():
            if judged(table, name):
                true = table.masks.get(name)
                there = true is not None and bool(true.any())
                iou = jaccard(masks[name].mask > 0, true) if there and true is not None else 0.0
                answers.append(Answer(there, one.score, iou))
    return answers, times


def find_by_sift(shown: Sequence[Table], views: dict[str, list[int]], searched: Sequence[Table]) -> list[Answer]:
    """The answers of SIFT."""
    models = {name: SiftObject(shown[n].rgb, shown[n].masks[name].astype(np.uint8)) for name, (n, *_) in views.items()}
    answers = []
    for table in searched:
        points = sift_points(table.rgb)
        for name, model in models.items():
            if judged(table, name):
                true, found = table.masks.get(name), model(points)
                there = true is not None and bool(true.any())
                iou = jaccard(found, true) if there and true is not None else 0.0
                answers.append(Answer(there, float(found.any()), iou))
    return answers


def scores(answers: Sequence[Answer]) -> dict[str, float]:
    """Precision, recall and F1 of "in view"; false alarms; IoU where rightly found; expected calibration error."""
    there, score, iou = (np.array(column) for column in zip(*answers, strict=True))
    found = score >= 0.5
    right = np.count_nonzero(found & there)
    bins = np.minimum((10 * score).astype(int), 9)
    gaps = [abs(float((there[bins == b] - score[bins == b]).sum())) for b in range(10)]
    return {
        "precision": right / max(np.count_nonzero(found), 1),
        "recall": right / np.count_nonzero(there),
        "F1": 2 * right / (np.count_nonzero(found) + np.count_nonzero(there)),
        "false alarms": float(found[~there].mean()),
        "IoU": float(iou[found & there].mean()) if right else 0.0,
        "ECE": sum(gaps) / len(answers),
    }


def reliability(answers: Sequence[Answer]) -> list[tuple[float, float, int]]:
    """By tenths of the score: its mean, the share that is in view, how many."""
    bins = defaultdict(list)
    for one in answers:
        bins[min(int(10 * one.score), 9)].append((one.score, one.there))
    return [(*(float(x) for x in np.mean(bins[b], axis=0)), len(bins[b])) for b in sorted(bins)]


def sheet(looks: dict[str, list[Look]], searched: Sequence[tuple[Table, NDArray[np.float32]]]) -> NDArray[np.uint8]:
    """A row for each object: the look, and four tables on which it is found, with its score."""
    background = Background(searched[0][1].shape[-1])
    rows = []
    for name, (look, *_) in looks.items():
        row = [overlay(look.picture, look.mask, NOTHING)]
        for table, features in searched:
            one = Finder(looks, background)(features)[name]
            if one.score < 0.5:
                continue
            maker = MaskMaker()
            view = maker.see(table.rgb.shape[:2], table.rgb, 0, STEPS)
            picture = overlay(table.rgb, maker.make_named({name: one.soft}, view, STEPS)[name].mask, NOTHING)
            cv2.putText(picture, f"{name} {one.score:.2f}", (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255))
            row.append(picture)
            if len(row) == 5:
                break
        rows.append(np.hstack(row + [np.zeros_like(row[0])] * (5 - len(row))))
    return np.vstack(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, look, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="student files, or names of bundled students")
    parser.add_argument("--out", type=Path, default=Path("runs/taught"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    shown, searched = list(tables(TAUGHT, 1)), list(tables(SEARCHED, 2))
    half = len(searched) // 2
    results = []
    views = first_views(shown, 1)
    found = find_by_sift(shown, views, searched[half:])
    results.append({"student": "SIFT", "taught by": "mask", "looks": 1, **scores(found)})
    ways: dict[str, Callable[[Table, str, NDArray[np.float32]], NDArray[np.uint8]]]
    ways = {"mask": by_mask, "click": by_click}
    for student in options.students:
        perceiver = Perceiver.load(student)
        of_shown = [patch_tokens(perceiver, table.rgb) for table in shown]
        pairs = [(table, patch_tokens(perceiver, table.rgb)) for table in searched]
        for way, mark in ways.items():
            for count in LOOKS:
                looks = {
                    name: [look_at(of_shown[n], shown[n].rgb, mark(shown[n], name, of_shown[n])) for n in numbers]
                    for name, numbers in first_views(shown, count).items()
                }
                answers, times = find(looks, pairs)
                later = answers[len(answers) // 2 :]
                results.append({
                    "student": Path(student).stem, "taught by": way, "looks": count, **scores(later),
                    "F1, first half": scores(answers[: len(answers) // 2])["F1"],
                    "median ms": float(np.median(times)), "p99 ms": float(np.quantile(times, 0.99)),
                    "reliability": reliability(later),
                })  # fmt: skip
                print(json.dumps(results[-1]), flush=True)
                if way == "mask" and count == 1:
                    picture = cv2.cvtColor(sheet(looks, pairs), cv2.COLOR_RGB2BGR)
                    png = cv2.imencode(".png", picture)[1].tobytes()
                    write_whole(options.out / f"{Path(student).stem}.png", png)
    write_whole(options.out / "taught.json", json.dumps(results, indent=2).encode())
    columns = [name for name in results[-1] if name != "reliability"]
    table = RichTable(*columns)
    for row in results:
        cells = (row.get(name, "") for name in columns)
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
