"""Video object segmentation: how well the objects of the first frame are tracked through the video.

The measures of semi-supervised DAVIS-2017 (davis2017-evaluation): region similarity J, which is the Jaccard index, and
boundary accuracy F of every object in every frame except the first, which is given, and the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, tee
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.masks.binary import jaccard
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.segmentation.boundary import boundary_f
from dino_train.evaluation.segmentation.label_propagation import segment_video
from dino_train.evaluation.segmentation.labeled_images import VOID, LabeledImage, read_labeled
from dino_train.evaluation.segmentation.taught_objects import find_in_video
from dino_train.evaluation.segmentation.video_folder import VideoSequence

FEWEST = 3
"""Frames of a sequence, as the first and the last are not scored."""

Method = Literal["label_propagation", "taught"]
"""How objects are followed: as in the paper, or as the node finds an object that it was shown."""


@dataclass(frozen=True)
class SegmentedFrame:
    """A frame with its true and predicted object numbers, [H, W] each; in the first frame both are the same."""

    name: str
    """Name of the image file, without suffix."""
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]


class Statistics(NamedTuple):
    """Statistics of a measure over an object's frames."""

    mean: float
    recall: float
    """Share of the frames in which the measure is above 0.5."""
    decay: float
    """Mean over the first quarter of the frames minus mean over the last."""


@dataclass(frozen=True)
class ObjectScores:
    """How well an object was tracked through its video."""

    number: int
    """The object's number in the masks."""
    j: Statistics
    f: Statistics


def segment_sequence(
    encoder: Encoder, sequence: VideoSequence, method: Method = "label_propagation"
) -> Iterator[SegmentedFrame]:
    """Yield each frame with the objects of the first as the method follows them to it.

    Raises UserError for a sequence of fewer than 3 frames, a frame of another size than the first, a first frame
    without objects, and as `read_labeled`.
    """
    if len(sequence.files) < FEWEST:
        raise UserError(
            f"The sequence {sequence.name} has {len(sequence.files)} frames, but needs at least {FEWEST}: the first "
            "and the last are not scored. Remove the sequence, or add frames."
        )
    names = [image.stem for image, _ in sequence.files]
    frames, ahead = tee(_read(sequence))
    image, first = next(frames)
    if np.isin(first, (0, VOID)).all():
        raise UserError(f"{sequence.files[0][1]} has no object: the first frame must show what to track.")
    yield SegmentedFrame(names[0], image, first, first)
    images = (image for image, _ in ahead)
    if method == "taught":
        masks = find_in_video(encoder, zip(sequence.stamps(), images, strict=True), first)
    else:
        masks = segment_video(encoder, images, first)
    for name, (image, truth), predicted in zip(names[1:], frames, masks, strict=True):
        yield SegmentedFrame(name, image, truth, predicted)


def _read(sequence: VideoSequence) -> Iterator[LabeledImage]:
    shape: tuple[int, ...] = ()
    for image, mask in sequence.files:
        labeled = read_labeled(image, mask)
        shape = shape or labeled[1].shape
        if labeled[1].shape != shape:
            raise UserError(f"{image} is not of the size of the first frame: a sequence must have frames of one size.")
        yield labeled


def score_objects(frames: Iterable[SegmentedFrame]) -> list[ObjectScores]:
    """Score each object of a video's first frame; void pixels are left out."""
    frames = iter(frames)
    numbers = [int(number) for number in np.unique(next(frames).truth) if number not in (0, VOID)]
    j: list[list[float]] = []
    f: list[list[float]] = []
    for frame in frames:
        judged = frame.truth != VOID
        pairs = [((frame.predicted == number) & judged, frame.truth == number) for number in numbers]
        j.append([jaccard(mask, truth) for mask, truth in pairs])
        f.append([boundary_f(mask, truth) for mask, truth in pairs])
    measures = (np.array(values[:-1]).T for values in (j, f))
    return [
        ObjectScores(number, statistics(of_j), statistics(of_f))
        for number, of_j, of_f in zip(numbers, *measures, strict=True)
    ]


def statistics(values: NDArray[np.float64]) -> Statistics:
    """Statistics of a measure's values [frames], as in the benchmark: neighboring quarters share a frame."""
    # The benchmark adds 1e-10 so that halves are rounded up.
    limits = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    quarters = [values[start : end + 1].mean() for start, end in pairwise(limits)]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(quarters[0] - quarters[-1]))


def mean_scores(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """Means over objects: J&F, and mean, recall and decay of J and of F, by name."""
    j, f = (
        Statistics(*np.mean(measure, axis=0).tolist()) for measure in zip(*((o.j, o.f) for o in objects), strict=True)
    )
    named = {f"{name} {kind}": value for name, of in (("J", j), ("F", f)) for kind, value in of._asdict().items()}
    return {"J&F": (j.mean + f.mean) / 2, **named}
