"""Objects taught on photographs and videos: followed, found in others of their class, false alarms, time.

    python benchmarks/taught_real.py encoder.onnx scenes_vit_small_20 --data DATA --out runs/taught_real

DATA has the folders davis2016, caltech101, videos and bags, each as the tools of its name lay it out. The measures:

videos      The first frame's objects followed through DAVIS: J&F of the node's finder, of the paper's label
            propagation, of the cosine to one patch token with the threshold that is best on the first frame, of SIFT.
classes     One or three pictures of each of ten classes, taught as `dino-ros teach` does without a mask, looked for in
            all other pictures of these classes and in those of forty others. Against the cosine to one patch token and
            to the CLS token of the picture, each with the threshold that is best on these very pictures.
recordings  The ten objects of DAVIS looked for in whole recordings without them: found nevertheless, and after how many
            frames the threshold of each has come to stay within 0.01 of what it is at the end.
time        The finder for ten names on 28x28 patches, in turns with the student's engine. Tokens are the student's own.

Writes OUT/taught_real.json and prints a table of each measure.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from taught_baselines import PointCosine, SiftObject, sift_points

from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_ros.images.folders import image_files
from dino_ros.images.sources import open_source
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import object_in_box, patch_tokens
from dino_ros.taught.background import Background
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look, look_at, unit
from dino_ros.taught.pictures import read_picture
from dino_train.evaluation.ranking.ranking_scores import average_precision
from dino_train.evaluation.segmentation.labeled_images import VOID, read_labeled
from dino_train.evaluation.segmentation.video_folder import open_video_folder
from dino_train.evaluation.segmentation.video_segmentation import (
    SegmentedFrame,
    mean_scores,
    score_objects,
    segment_sequence,
)

CLASSES, OTHERS = 10, 40
LOOKS = (1, 3)
FOUND = 0.5
"""Score from which an object is in view."""
STEADY = 0.01
"""By how much a threshold that has settled may still move."""
GRID = 28
FRAMES = 300
"""For the time."""

Row = dict[str, Any]


def videos(perceiver: Perceiver, data: Path) -> Iterator[Row]:
    """J&F by method."""
    sequences = open_video_folder(data / "davis2016")
    by_method: dict[str, list[Any]] = {}
    for sequence in track(sequences, description="videos"):
        frames = list(segment_sequence(perceiver, sequence, "taught"))
        methods = {
            "taught": frames,
            "label propagation": segment_sequence(perceiver, sequence),
            "cosine to one token": by_point(perceiver, frames),
            "SIFT": by_sift(frames),
        }
        for method, followed in methods.items():
            by_method.setdefault(method, []).extend(score_objects(followed))
    for method, objects in by_method.items():
        means = mean_scores(objects)
        yield {"method": method, "J&F": means["J&F"], "J": means["J mean"], "F": means["F mean"]}


def by_point(perceiver: Perceiver, frames: list[SegmentedFrame]) -> Iterator[SegmentedFrame]:
    """The frames of a video with what is like the middle of each object."""
    tokens = (patch_tokens(perceiver, frame.image) for frame in frames)
    start = next(tokens)
    models = {number: PointCosine(start, mask) for number, mask in first_masks(frames[0].truth)}
    yield frames[0]
    for frame, features in zip(frames[1:], tokens, strict=True):
        yield with_objects(frame, {number: model(features) for number, model in models.items()})


def by_sift(frames: list[SegmentedFrame]) -> Iterator[SegmentedFrame]:
    """The frames of a video with the objects where SIFT finds them."""
    models = {number: SiftObject(frames[0].image, mask) for number, mask in first_masks(frames[0].truth)}
    yield frames[0]
    for frame in frames[1:]:
        points = sift_points(frame.image)
        yield with_objects(frame, {number: model(points) for number, model in models.items()})


def first_masks(truth: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.uint8]]]:
    """The mask of each object of a first frame, by number."""
    numbers = [int(number) for number in np.unique(truth) if number not in (0, VOID)]
    return [(number, (truth == number).astype(np.uint8)) for number in numbers]


def with_objects(frame: SegmentedFrame, masks: Mapping[int, NDArray[np.bool_]]) -> SegmentedFrame:
    """A frame with these masks as what is predicted."""
    predicted = np.zeros_like(frame.truth)
    for number, mask in masks.items():
        predicted[mask] = number
    return replace(frame, predicted=predicted)


class Picture(NamedTuple):
    """What a student says of a picture, and of what class it is."""

    label: str
    features: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Lesson(NamedTuple):
    """What is learnt from a picture."""

    look: Look
    point: PointCosine
    embedding: NDArray[np.float32]


def classes(perceiver: Perceiver, data: Path) -> Iterator[Row]:
    """How well a class is found by one and by three pictures, by method."""
    folder = data / "caltech101"
    rng = np.random.default_rng(0)
    names = [name for name in sorted(path.name for path in (folder / "val").iterdir()) if name != "Faces_easy"]
    chosen = rng.permutation(names)[: CLASSES + OTHERS].tolist()
    taught = {
        name: list(islice(lessons(perceiver, image_files(folder / "train" / name)), max(LOOKS)))
        for name in chosen[:CLASSES]
    }
    files = [(name, file) for name in chosen for file in image_files(folder / "val" / name)]
    # Pictures of the taught classes that were not shown, too: there are few in val.
    files += [(name, file) for name in taught for file in image_files(folder / "train" / name)[2 * max(LOOKS) :]]
    pictures = [seen(perceiver, *files[n]) for n in track(rng.permutation(len(files)).tolist(), description="classes")]
    truth = np.array([[picture.label == name for name in taught] for picture in pictures])
    for count in LOOKS:
        looks = {name: [lesson.look for lesson in of_one[:count]] for name, of_one in taught.items()}
        background = Background(pictures[0].features.shape[-1])
        found = [Finder(looks, background)(picture.features) for picture in pictures]
        scores = np.array([[one[name].score for name in taught] for one in found])
        yield {"method": "taught", "looks": count, **class_scores(scores, truth, FOUND)}
        points = np.array([
            [max(lesson.point.highest(picture.features) for lesson in taught[name][:count]) for name in taught]
            for picture in pictures
        ])  # fmt: skip
        yield {"method": "cosine to one token", "looks": count, **class_scores(points, truth, best(points, truth))}
        whole = np.array([
            [max(float(unit(lesson.embedding) @ unit(one.embedding)) for lesson in of_one[:count])
             for of_one in taught.values()]
            for one in pictures
        ])  # fmt: skip
        yield {"method": "cosine of CLS tokens", "looks": count, **class_scores(whole, truth, best(whole, truth))}


def lessons(perceiver: Perceiver, files: Iterable[Path]) -> Iterator[Lesson]:
    """What is learnt from each of these pictures in which the student sees an object."""
    for file in files:
        rgb = read_picture(file)
        try:
            mask = object_in_box(perceiver, rgb, 0, 0, rgb.shape[1], rgb.shape[0])
            features = patch_tokens(perceiver, rgb)
            look = look_at(features, rgb, mask)
        except UserError:
            continue
        yield Lesson(look, PointCosine(features, mask), seen(perceiver, "", file).embedding)


def seen(perceiver: Perceiver, label: str, file: Path) -> Picture:
    """A picture through the student."""
    perception = perceiver(read_picture(file), ["features", "embedding"])
    assert perception.features is not None  # they were asked for
    assert perception.embedding is not None
    return Picture(label, perception.features, perception.embedding)


def class_scores(scores: NDArray[np.float64], truth: NDArray[np.bool_], threshold: float) -> Row:
    """Of "in view", for scores [pictures, classes] and a threshold: precision, recall, F1, false alarms; and the mean
    average precision of the classes."""
    found = scores >= threshold
    right = np.count_nonzero(found & truth)
    rankings = [of_one[np.argsort(-score, kind="stable")] for score, of_one in zip(scores.T, truth.T, strict=True)]
    return {
        "precision": right / max(np.count_nonzero(found), 1),
        "recall": right / np.count_nonzero(truth),
        "F1": 2 * right / (np.count_nonzero(found) + np.count_nonzero(truth)),
        "false alarms": float(found[~truth].mean()),
        "mAP": float(np.mean([average_precision(ranking) for ranking in rankings])),
        "pictures": len(truth),
        "of a class": float(truth.sum(axis=0).mean()),
    }


def best(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The threshold with the highest F1."""
    levels = np.quantile(scores, np.linspace(0.5, 1, 501))
    return float(max(levels, key=lambda level: class_scores(scores, truth, level)["F1"]))


def first_objects(perceiver: Perceiver, data: Path) -> dict[str, list[Look]]:
    """The object of the first frame of each sequence of DAVIS, by the sequence's name."""
    looks = {}
    for sequence in open_video_folder(data / "davis2016"):
        rgb, objects = read_labeled(*sequence.files[0])
        mask = ((objects != 0) & (objects != VOID)).astype(np.uint8)
        looks[sequence.name] = [look_at(patch_tokens(perceiver, rgb), rgb, mask)]
    return looks


def recordings(perceiver: Perceiver, data: Path) -> Iterator[Row]:
    """False alarms of ten names in recordings without them."""
    looks = first_objects(perceiver, data)
    sequences = open_video_folder(data / "davis2016")
    others = ((read_picture(image), one.name) for one in sequences for image, _ in one.files)
    yield {"recording": "DAVIS, the nine others", **false_alarms(perceiver, looks, others)}
    sources = {
        "cups": open_source(data / "videos" / "cups.mp4"),
        "euroc_micro": open_source(data / "bags" / "euroc_micro"),
        "the demo's table": open_source(TABLE, TOPIC),
        "bottles": open_source(data / "videos" / "bottles.mp4"),
    }
    for name, source in sources.items():
        frames = (frame.rgb() for frame in track(source, description=name, total=len(source)))
        yield {"recording": name, **false_alarms(perceiver, looks, ((frame, "") for frame in frames))}


def false_alarms(
    perceiver: Perceiver, looks: Mapping[str, list[Look]], frames: Iterable[tuple[NDArray[np.uint8], str]]
) -> Row:
    """Of one stream of frames, each with the name of the object that may be in it."""
    background = Background(perceiver.info.embed_dim)
    finder = Finder(looks, background)
    found, thresholds, own = [], [], []
    for rgb, name in frames:
        answers = finder(patch_tokens(perceiver, rgb))
        found.append([answers[one].score >= FOUND for one in looks])
        thresholds.append([background.threshold(one) for one in looks])
        own.append([one == name for one in looks])
    alarms = np.ma.masked_array(found, own)
    by_name = alarms.mean(axis=0)
    moved = np.abs(np.array(thresholds) - thresholds[-1]) > STEADY
    settled = [int(np.flatnonzero(one)[-1]) + 1 if one.any() else 0 for one in moved.T]
    return {
        "frames": len(found),
        "with any": float(alarms.any(axis=1).mean()),
        "per name": float(by_name.mean()),
        "worst name": f"{[*looks][int(by_name.argmax())]} {by_name.max():.3f}",
        "settled after, median": float(np.median(settled)),
        "at most": max(settled),
        "by name": dict(zip(looks, by_name.tolist(), strict=True)),
        "thresholds": dict(zip(looks, thresholds[-1], strict=True)),
    }


def times(perceiver: Perceiver, data: Path) -> Iterator[Row]:
    """Milliseconds of the finder and of the masks, and their ratio to the engine's."""
    looks = first_objects(perceiver, data)
    files = [image for one in open_video_folder(data / "davis2016") for image, _ in one.files]
    images = [perceiver.prepare_image(read_picture(file), 0) for file in files]
    finder, maker, steps = Finder(looks, Background(perceiver.info.embed_dim)), MaskMaker(), MaskParameters()
    measured = []
    for number, image in enumerate(islice(cycle(images), FRAMES)):
        assert image.rgb is not None  # it was given
        ticks = [time.perf_counter()]
        (result,) = perceiver.infer([image.input], ["features"])
        ticks.append(time.perf_counter())
        tokens = on_grid(result["features"])
        ticks.append(time.perf_counter())
        found = finder(tokens)
        ticks.append(time.perf_counter())
        view = maker.see(image.size, image.rgb, number * 33_000_000, steps, True)
        ticks.append(time.perf_counter())
        maker.make_named({name: one.soft for name, one in found.items()}, view, steps, True)
        ticks.append(time.perf_counter())
        measured.append(np.diff(ticks))
    engine, _, find, _, masks = 1e3 * np.array(measured).T
    for what, taken in (("engine", engine), ("finder", find), ("finder and masks", find + masks)):
        median, tail = np.percentile(taken, [50, 99])
        ratios = {"median / engine": median / np.median(engine), "p99 / engine": tail / np.median(engine)}
        yield {"what": what, "median ms": median, "p99 ms": tail, **ratios}


def on_grid(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Patch tokens [GRID, GRID, C]: the nearest ones of [h, w, C]."""
    rows, columns = (np.arange(GRID) * side // GRID for side in features.shape[:2])
    return np.ascontiguousarray(features[rows][:, columns])


MEASURES: dict[str, Callable[[Perceiver, Path], Iterator[Row]]] = {
    "videos": videos,
    "classes": classes,
    "recordings": recordings,
    "time": times,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="student files, or names of bundled students")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/taught_real"))
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=[*MEASURES])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Row]] = {}
    for measure in options.measures:
        rows = results[measure] = []
        for student in options.students:
            perceiver = Perceiver.load(student)
            for row in MEASURES[measure](perceiver, options.data):
                rows.append({"student": Path(student).stem, **row})
                write_whole(options.out / "taught_real.json", json.dumps(results, indent=2).encode())
        columns = [name for name, value in rows[0].items() if not isinstance(value, dict)]
        table = Table(*columns, title=measure)
        for row in rows:
            cells = (row[name] for name in columns)
            table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
        Console(width=180).print(table)


if __name__ == "__main__":
    main()
