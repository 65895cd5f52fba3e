"""What a robot can read out of frozen features: probes from them to the numbers of another topic of the same bag.

A ridge and a k-NN regression learn from the first part of a recording and are asked about its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.images.sources import Source, open_source
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.probing.bag_targets import nearest, read_targets, varies
from dino_train.evaluation.probing.pca import fit_pca
from dino_train.evaluation.probing.regression import Matrix, nearest_mean, r2_scores, ridge

FRAMES = 4000
"""Frames that are used, at most, at even distances: more of them are alike, and cost time and memory."""
GRID = (4, 4)
"""Rows and columns that the patch tokens are averaged over, so that they keep where things are."""
PIXELS = (30, 40)
"""Height and width of the images whose pixels are compared with."""
STRENGTHS = tuple(10.0**power for power in range(-6, 4))
"""Of the ridge, for vectors whose mean squared distance from their mean is 1."""
NEIGHBORS = (1, 3, 10, 30, 100)
FIT, VALIDATION, TRAIN, TEST = 0.5, 0.55, 0.7, 0.75
"""Shares of the recording's time: the parameter is chosen by learning before FIT and asking from VALIDATION to TRAIN;
then all before TRAIN is learnt and what comes after TEST is asked. The gaps keep frames that are nearly the same apart.
"""
FEWEST = 4
"""Frames with a number in each part, at least."""


@dataclass(frozen=True)
class Split:
    """Which frames [N] belong to which part."""

    fit: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]

    def parts(self) -> tuple[NDArray[np.bool_], ...]:
        """All of them."""
        return self.fit, self.validation, self.train, self.test

    def of(self, kept: NDArray[np.bool_]) -> Split:
        """The same of some of the frames."""
        return Split(*(part[kept] for part in self.parts()))


@dataclass(frozen=True)
class Recording:
    """Frames of a bag, and the numbers that belong to them."""

    source: Source
    numbers: NDArray[np.int64]
    """[N]: which frames of the source."""
    split: Split
    targets: Mapping[str, NDArray[np.float64]]
    """Name -> [N], NaN where a frame has none."""


@dataclass(frozen=True)
class ProbeScores:
    """How well one number is read from one kind of features."""

    encoder: str
    features: str
    dimensions: int
    target: str
    ridge_r2: float
    """1 is perfect, 0 as good as always answering with the mean, below 0 worse."""
    ridge_error: float
    """Mean absolute error, in the topic's units."""
    knn_r2: float
    knn_error: float


Regression = Callable[[Matrix, Matrix, Matrix, Sequence[float]], list[Matrix]]
"""`ridge` or `nearest_mean`."""


def probe(encoders: Mapping[str, Encoder], recording: Recording) -> list[ProbeScores]:
    """Score encoders by name, and the principal components of the pixels, on a recording's numbers, one by one.

    Of an encoder `embedding` is the CLS token and `patches` the patch tokens, averaged over GRID. Of the pixels there
    are as many components as either has numbers, or as the training frames allow.
    """
    vectors: dict[tuple[str, str, int], Matrix] = {}
    for name, encoder in encoders.items():
        for features, found in encode(encoder, images(recording)).items():
            vectors[name, features, found.shape[1]] = found
    pixels = np.stack([resize(image, *PIXELS).ravel() for image in images(recording)])
    for count in sorted({count for _, _, count in vectors}):
        found = fit_pca(pixels[recording.split.train], count).project(pixels)
        vectors["pixels", "PCA", found.shape[1]] = found
    scores = [
        score for (name, features, _), found in vectors.items() for score in _score(name, features, found, recording)
    ]
    order = list(recording.targets)
    return sorted(scores, key=lambda score: order.index(score.target))


def open_recording(bag: Path, topic: str | None, target: str, fields: Sequence[str] = ()) -> Recording:
    """Find the frames of a bag's image topic that a message of `target` belongs to, and the numbers in `fields`.

    Without fields those of `Targets.sensible` are taken, and in any case those that vary in every part of the
    recording. Raises UserError for a bag or topic that cannot be read, for a field that is missing, for a number that
    is named and does not vary, and where none does.
    """
    source = open_source(bag, topic)
    said = read_targets(bag, target)
    stamps = np.array([frame.stamp for frame in source], np.int64)
    messages = nearest(stamps, said.stamps)
    frames = np.flatnonzero(messages >= 0)
    if not len(frames):
        raise UserError(
            f"No image of {source.name} has a stamp near one of {target}: choose topics that were recorded together."
        )
    frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int)]
    split = split_by_time(stamps[frames])
    columns = {name: values[messages[frames]] for name, values in said.columns.items()}
    for name in columns.keys() & set(fields):
        if reason := why_not(columns[name], split):
            raise UserError(f"{name} of {target} cannot be probed: {reason}. Choose another field or a longer bag.")
    candidates = said.choose(fields) if fields else said.sensible()
    names = [name for name in candidates if not why_not(columns[name], split)]
    if not names:
        raise UserError(
            f"{target} has no number that varies in each part of the {len(frames)} frames that it belongs to: choose "
            "another topic or a longer bag."
        )
    return Recording(source, frames, split, {name: columns[name] for name in names})


def split_by_time(stamps: NDArray[np.int64]) -> Split:
    """Split frames by their stamps [N] in ns into the parts that FIT, VALIDATION, TRAIN and TEST say."""
    share = (stamps - stamps.min()) / max(np.ptp(stamps), 1)
    return Split(share < FIT, (share >= VALIDATION) & (share < TRAIN), share < TRAIN, share >= TEST)


def why_not(values: NDArray[np.float64], split: Split) -> str:
    """Why a number [N] cannot be probed; empty if it can."""
    for part in split.parts():
        known = np.count_nonzero(~np.isnan(values[part]))
        if known < FEWEST:
            return f"a part of the recording has it in {known} frames only"
        if not varies(values[part]):
            return "it does not vary in a part of the recording"
    return ""


def images(recording: Recording) -> Iterator[NDArray[np.uint8]]:
    """The frames, RGB [H, W, 3], one after the other."""
    wanted = set(recording.numbers.tolist())
    return (frame.rgb() for number, frame in enumerate(recording.source) if number in wanted)


def encode(encoder: Encoder, frames: Iterator[NDArray[np.uint8]]) -> dict[str, Matrix]:
    """`embedding` [N, C] of N images, and `patches` [N, rows * columns * C]: the tokens averaged over GRID."""
    embeddings, patches = [], []
    for image in frames:
        seen = encoder(image, ("embedding", "features"))
        assert seen.features is not None  # they were asked for
        assert seen.embedding is not None
        tokens = torch.from_numpy(seen.features).movedim(-1, 0)
        embeddings.append(seen.embedding)
        patches.append(functional.adaptive_avg_pool2d(tokens, GRID).flatten().numpy())
    return {"embedding": np.stack(embeddings).astype(float), "patches": np.stack(patches).astype(float)}


def _score(encoder: str, features: str, vectors: Matrix, recording: Recording) -> Iterator[ProbeScores]:
    targets = recording.targets
    groups: dict[bytes, list[str]] = {}
    for name, values in targets.items():
        groups.setdefault(np.isnan(values).tobytes(), []).append(name)
    for names in groups.values():  # numbers that the same frames have are learnt together
        y = np.stack([targets[name] for name in names], axis=1)
        known = ~np.isnan(y[:, 0])
        y, parts = y[known], recording.split.of(known)
        truth = y[parts.test]
        columns = []
        for regression, parameters in ((ridge, STRENGTHS), (nearest_mean, NEIGHBORS)):
            answers = answer(regression, parameters, scaled(vectors[known], parts.train), y, parts)
            columns += [r2_scores(truth, answers), np.abs(truth - answers).mean(axis=0)]
        for name, *row in zip(names, *(column.tolist() for column in columns), strict=True):
            yield ProbeScores(encoder, features, vectors.shape[1], name, *row)


def answer(regression: Regression, parameters: Sequence[float], x: Matrix, y: Matrix, split: Split) -> Matrix:
    """Answers [M, T] for the test frames of vectors x [N, C], learnt from the numbers y [N, T] of the training frames.

    The parameter is that with the smallest squared error in the validation frames, for each column of y.
    """
    tried = regression(x[split.fit], y[split.fit], x[split.validation], parameters)
    best = np.argmin([((one - y[split.validation]) ** 2).mean(axis=0) for one in tried], axis=0)
    answers = np.stack(regression(x[split.train], y[split.train], x[split.test], parameters))
    chosen: Matrix = np.take_along_axis(answers, best[None, None], axis=0)[0]
    return chosen


def scaled(vectors: Matrix, train: NDArray[np.bool_]) -> Matrix:
    """Vectors [N, C] in a scale in which those of training have a mean squared distance of 1 from their mean."""
    spread = np.sqrt(vectors[train].var(axis=0).sum())
    shrunk: Matrix = vectors / max(spread, 1e-12)
    return shrunk
