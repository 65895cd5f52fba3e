"""What a robot can read out of frozen features: probes that predict the values of another topic of the same bag.

A ridge and a k-NN regression are fitted on the first part of a recording and tested on its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import KernelPCA
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsRegressor
from torch.nn import functional

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import Source, open_source
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.probing.bag_targets import nearest, read_targets, varies
from dino_train.machine.progress import watched

FRAMES = 4000
"""Frames used at most, evenly spaced: more of them look alike, and cost time and memory."""
GRID = (4, 4)
"""Rows and columns that the patch tokens are averaged to, so that they still tell where things are."""
PIXELS = (30, 40)
"""Height and width of the images whose raw pixels serve as a baseline."""
STRENGTHS = tuple(10.0**power for power in range(-6, 4))
"""Ridge penalties tried, for vectors whose mean squared distance from their mean is 1."""
NEIGHBORS = (1, 3, 10, 30, 100)
"""k tried for k-NN regression."""
FIT, VALIDATION, TRAIN, TEST = 0.5, 0.55, 0.7, 0.75
"""Shares of the recording's time. To choose the penalty or k, a probe is fitted before FIT and validated from
VALIDATION to TRAIN; it is then fitted again on all before TRAIN and tested from TEST on. The gaps keep frames that look
nearly the same apart."""
FEWEST = 4
"""Frames with a value that each part needs."""

Matrix = NDArray[np.float64]
Regressor = Callable[[Any], Any]
"""Makes a scikit-learn regressor of a parameter, such as `Ridge` of its penalty."""


@dataclass(frozen=True)
class Split:
    """Which of N frames belong to which part, a bool [N] each."""

    fit: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]

    def parts(self) -> tuple[NDArray[np.bool_], ...]:
        return self.fit, self.validation, self.train, self.test

    def restrict(self, kept: NDArray[np.bool_]) -> Split:
        """The split of those frames that are `kept` [N]."""
        return Split(*(part[kept] for part in self.parts()))


@dataclass(frozen=True)
class ProbeRecording:
    """Frames of a bag, and the target values that belong to them."""

    source: Source
    frame_numbers: NDArray[np.int64]
    """[N], ascending: which frames of the source are used."""
    split: Split
    targets: Mapping[str, NDArray[np.float64]]
    """Name -> values [N], NaN where a frame has none."""

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """The frames one after the other, RGB [H, W, 3]."""
        used = set(self.frame_numbers.tolist())
        return (frame.rgb() for number, frame in enumerate(self.source) if number in used)


@dataclass(frozen=True)
class ProbeScores:
    """How well one target is predicted from one kind of features."""

    encoder: str
    features: str
    dimensions: int
    target: str
    ridge_r2: float
    """1 is perfect, 0 is as good as always predicting the mean, below 0 is worse."""
    ridge_error: float
    """Mean absolute error, in the topic's units."""
    knn_r2: float
    knn_error: float


def probe(encoders: Mapping[str, Encoder], recording: ProbeRecording) -> list[ProbeScores]:
    """Score encoders by name, and the principal components of the pixels, on each of a recording's targets.

    An encoder's `embedding` is its CLS token, its `patches` are the patch tokens averaged to GRID. The pixels get as
    many components as each of these has dimensions, or as the training frames allow.
    """
    vectors: dict[tuple[str, str, int], Matrix] = {}
    for name, encoder in encoders.items():
        for features, encoded in encode(
            encoder, watched(recording.images(), name, len(recording.frame_numbers))
        ).items():
            vectors[name, features, encoded.shape[1]] = encoded
    pixels = np.stack([resize(image, *PIXELS).ravel() for image in recording.images()]).astype(float)
    dimensions = sorted({count for _, _, count in vectors})
    components = principal_components(pixels, recording.split.train, dimensions[-1])
    for count in dimensions:
        coordinates = components[:, :count]
        vectors["pixels", "PCA", coordinates.shape[1]] = coordinates
    scores = [
        score
        for (name, features, _), encoded in vectors.items()
        for score in score_features(name, features, encoded, recording)
    ]
    order = list(recording.targets)
    return sorted(scores, key=lambda score: order.index(score.target))


def open_recording(bag: Path, topic: str | None, target: str, fields: Sequence[str] = ()) -> ProbeRecording:
    """Find the frames of a bag's image topic that have a message of the topic `target`, and their values of `fields`.

    Without fields, `Targets.informative` names them. Only targets that vary in every part of the recording are used.
    Raises UserError for a bag or topic that cannot be read, a field that is missing, a target that is named in full and
    does not vary, and where no target varies.
    """
    source = open_source(bag, topic)
    targets = read_targets(bag, target)
    stamps = np.array([frame.stamp for frame in source], np.int64)
    messages = nearest(stamps, targets.stamps)
    frames = np.flatnonzero(messages >= 0)
    if not len(frames):
        raise UserError(
            f"No image of {source.name} has a stamp close to one of {target}: give a --target that was "
            "recorded at the same time."
        )
    frames = frames[evenly_spaced(len(frames), FRAMES)]
    split = split_by_time(stamps[frames])
    values = {name: column[messages[frames]] for name, column in targets.columns.items()}
    for name in values.keys() & set(fields):
        if reason := unusable(values[name], split):
            raise UserError(f"{name} of {target} cannot be probed: {reason}. Give other --fields or a longer bag.")
    candidates = targets.select(fields) if fields else targets.informative()
    names = [name for name in candidates if not unusable(values[name], split)]
    if not names:
        raise UserError(
            f"{target} has no value that varies in every part of its {len(frames)} frames: give another --target or a "
            "longer bag."
        )
    return ProbeRecording(source, frames, split, {name: values[name] for name in names})


def split_by_time(stamps: NDArray[np.int64]) -> Split:
    """Split frames by their stamps [N] in ns at FIT, VALIDATION, TRAIN and TEST."""
    share = (stamps - stamps.min()) / max(np.ptp(stamps), 1)
    return Split(share < FIT, (share >= VALIDATION) & (share < TRAIN), share < TRAIN, share >= TEST)


def unusable(values: NDArray[np.float64], split: Split) -> str:
    """Why a target's values [N] cannot be probed; empty if they can."""
    for part in split.parts():
        known = np.count_nonzero(~np.isnan(values[part]))
        if known < FEWEST:
            return f"a part of the recording has it in only {known} frames"
        if not varies(values[part]):
            return "it does not vary in a part of the recording"
    return ""


def encode(encoder: Encoder, images: Iterator[NDArray[np.uint8]]) -> dict[str, Matrix]:
    """`embedding` [N, C] of N images, and `patches` [N, C * rows * columns]: the patch tokens averaged to GRID."""
    embeddings, patches = [], []
    for image in images:
        seen = encoder(image, ("embedding", "features"))
        assert seen.features is not None  # they were asked for
        assert seen.embedding is not None
        tokens = torch.from_numpy(seen.features).movedim(-1, 0)
        embeddings.append(seen.embedding)
        patches.append(functional.adaptive_avg_pool2d(tokens, GRID).flatten().numpy())
    return {"embedding": np.stack(embeddings).astype(float), "patches": np.stack(patches).astype(float)}


def principal_components(vectors: Matrix, train: NDArray[np.bool_], count: int) -> Matrix:
    """First `count` principal components [N, K] of vectors [N, C], fitted on the frames `train` [N] and sorted.

    K is smaller where the training vectors vary in fewer directions. With a linear kernel, `KernelPCA` is PCA by the
    eigenvectors of [frames, frames] instead of [C, C]: the smaller matrix, as images have more pixels than there are
    frames.
    """
    pca = KernelPCA(count, kernel="linear", eigen_solver="dense", remove_zero_eig=True).fit(vectors[train])
    coordinates: Matrix = pca.transform(vectors)
    return coordinates


def score_features(encoder: str, features: str, vectors: Matrix, recording: ProbeRecording) -> Iterator[ProbeScores]:
    """Score one kind of features, vectors [N, C], on each of the recording's targets."""
    groups: dict[bytes, list[str]] = {}
    for name, values in recording.targets.items():
        groups.setdefault(np.isnan(values).tobytes(), []).append(name)
    for names in groups.values():  # targets that the same frames have are fitted together
        y = np.stack([recording.targets[name] for name in names], axis=1)
        known = ~np.isnan(y[:, 0])
        x, y, split = vectors[known], y[known], recording.split.restrict(known)
        x = scaled(x, split.train)
        neighbors = sorted({min(k, int(split.fit.sum())) for k in NEIGHBORS})
        predictions = predict(Ridge, STRENGTHS, x, y, split), predict(KNeighborsRegressor, neighbors, x, y, split)
        columns = [
            score(y[split.test], predicted, multioutput="raw_values").tolist()
            for predicted in predictions
            for score in (r2_score, mean_absolute_error)
        ]
        for name, *row in zip(names, *columns, strict=True):
            yield ProbeScores(encoder, features, vectors.shape[1], name, *row)


def predict(regressor: Regressor, parameters: Sequence[float], x: Matrix, y: Matrix, split: Split) -> Matrix:
    """Predict the targets [M, T] of the M test frames, from vectors x [N, C] and the targets y [N, T] of training.

    Of the parameters, the one with the smallest squared error on the validation frames is used, for each target.
    """

    def fit_predict(parameter: float, part: NDArray[np.bool_], test: NDArray[np.bool_], targets: Matrix) -> Matrix:
        predicted: Matrix = regressor(parameter).fit(x[part], targets[part]).predict(x[test])
        return predicted.reshape(-1, targets.shape[1])  # scikit-learn drops the axis of a single target

    tried = [fit_predict(one, split.fit, split.validation, y) for one in parameters]
    best = np.argmin([((one - y[split.validation]) ** 2).mean(axis=0) for one in tried], axis=0)
    predictions = np.empty((np.count_nonzero(split.test), y.shape[1]))
    for index in np.unique(best):
        chosen = best == index
        predictions[:, chosen] = fit_predict(parameters[index], split.train, split.test, y[:, chosen])
    return predictions


def scaled(vectors: Matrix, train: NDArray[np.bool_]) -> Matrix:
    """Vectors [N, C], divided so that those in `train` [N] have a mean squared distance of 1 from their mean."""
    rms_distance = np.sqrt(vectors[train].var(axis=0).sum())
    result: Matrix = vectors / max(rms_distance, 1e-12)
    return result
