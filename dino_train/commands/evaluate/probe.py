"""`dino-train evaluate probe`: predict the values of another topic of the bag from frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser

if TYPE_CHECKING:
    from dino_train.evaluation.probing.probe import ProbeScores
    from dino_train.evaluation.scores import Scores


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Predict the values of another topic of the bag by ridge and by k-NN regression:
from the frozen embedding, from the patch tokens averaged over 4 x 4 parts of
the image, and, as a baseline, from principal components of the pixels. The
probes are fitted on the first 70 % of the recording's time and tested on the
last 25 %. R2 is 1 for perfect predictions and 0 where the mean would do as
well; MAE is the mean absolute error in the topic's units. Use a recording in
which the scene changes many times: the end of a short one shows too few scenes
to tell features apart. Takes one look at each frame.

    dino-train evaluate probe student.onnx --data my_bag --target /joint_states
"""
    )
    add_encoder_arguments(parser)
    parser.add_argument("--data", type=Path, required=True, help="a bag")
    parser.add_argument("--topic", type=str | None, help="its image topic, if it has several")
    parser.add_argument("--target", type=str, required=True, help="its topic to predict: joint states, poses, odometry")
    parser.add_argument(
        "--fields",
        nargs="+",
        type=str,
        default=[],
        help="numeric fields: pose.position.x, or pose.position for all below it; joints by name, position.elbow; "
        "array elements by index, poses.0.position.x, or summarized, poses.count, poses.mean.position.x, poses.min..., "
        "poses.max... (default: all that vary; for arrays of changing length, the summaries)",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.probing.probe import open_recording, probe
    from dino_train.evaluation.scores import show

    recording = open_recording(options.data, options.topic, options.target, options.fields)
    rows = table(probe(open_named_encoders(options), recording))
    show(f"{options.target} on {options.data.name}: {recording.split.test.sum()} test frames", rows, options.out)


def table(scores: Sequence[ProbeScores]) -> list[Scores]:
    """A row for every score, and at the end, for each kind of features, the mean R2 over the targets."""
    rows = [_row(one, one.target, one.ridge_r2, one.ridge_error, one.knn_r2, one.knn_error) for one in scores]
    kinds: dict[tuple[str, str, int], list[ProbeScores]] = {}
    for one in scores:
        kinds.setdefault((one.encoder, one.features, one.dimensions), []).append(one)
    for kind in kinds.values():
        ridge, knn = (sum(values) / len(kind) for values in ([s.ridge_r2 for s in kind], [s.knn_r2 for s in kind]))
        rows.append(_row(kind[0], "mean", ridge, "", knn, ""))
    return rows


def _row(
    kind: ProbeScores, target: str, ridge: float, error: float | str, knn: float, knn_error: float | str
) -> Scores:
    return {
        "target": target,
        "encoder": kind.encoder,
        "features": f"{kind.features} ({kind.dimensions})",
        "ridge R2": ridge,
        "ridge MAE": error,
        "k-NN R2": knn,
        "k-NN MAE": knn_error,
    }
