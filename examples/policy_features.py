"""Features to a policy: learn by demonstration where the nearest object is, through a frozen student.

    dino-ros features table --topic /camera/image_raw/compressed --out features.zarr
    python examples/policy_features.py features.zarr --target /ground_truth/poses

Behavior cloning in its simplest form: a linear head, from the patch tokens of an image averaged to 4x4, to x and y of
the object that is nearest to the camera: what a gripper would go to. It is fitted on the first 70 % of the frames and
tested on the last 25 %, beside the same head on pixels and on a ViT with random weights. Prints the mean distance
between the predicted and the true point in the test frames.

On a recording of examples/render_table.py (1200 s at 0.5 Hz, seed 5): always the mean 25.6 cm, pixels 23.9, random ViT
23.7, the bundled scenes_vit_small_20 21.2. The features are the best of these, and far from enough to grasp by. One
recording, one seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from dino_ros import UserError
from dino_ros.images.encodings import resize
from dino_ros.images.sources import open_source
from dino_train.evaluation.encoders import open_encoders
from dino_train.evaluation.probing.bag_targets import nearest, read_targets
from dino_train.evaluation.probing.probe import PIXELS, STRENGTHS, Matrix, encode, predict, scaled, split_by_time

GRID = 4
"""Rows and columns that patch tokens are averaged to, so that they still tell where things are."""


def nearest_object(bag: Path, topic: str, stamps: NDArray[np.int64]) -> Matrix:
    """x and y [N, 2] of the pose with the smallest z, in meters, at N stamps in ns; NaN where there is none.

    What your policy does, for its recordings, is read here instead. Raises UserError if the topic has no list of poses.
    """
    targets = read_targets(bag, topic)
    names = [name.removesuffix(".z") for name in targets.columns if name.endswith(".position.z")]
    poses = [name for name in names if name.split(".")[-2].isdigit()]  # not their mean, min and max
    if not poses:
        raise UserError(
            f"{topic} of {bag} is no PoseArray: name one with --target, or read your actions in `nearest_object`."
        )
    x, y, z = (np.stack([targets.columns[f"{pose}.{axis}"] for pose in poses], axis=1) for axis in "xyz")
    first = np.where(np.isnan(z), np.inf, z).argmin(axis=1)[:, None]
    points = np.hstack([np.take_along_axis(axis, first, axis=1) for axis in (x, y)])
    messages = nearest(stamps, targets.stamps)
    return np.where(messages[:, None] >= 0, points[messages], np.nan)


def averaged(features: Any) -> Matrix:
    """Patch tokens [N, h, w, C], averaged to [N, GRID * GRID * C]; reads a Zarr array in parts."""

    def average(tokens: NDArray[np.float16]) -> NDArray[np.float64]:
        parts = [np.array_split(rows, GRID, axis=1) for rows in np.array_split(tokens.astype(float), GRID)]
        return np.concatenate([part.mean(axis=(0, 1)) for row in parts for part in row])

    starts = range(0, features.shape[0], features.chunks[0])
    return np.stack([average(one) for start in starts for one in features[start : start + features.chunks[0]]])


def frames(bags: Sequence[str], topic: str | None, recordings: Any, numbers: Any) -> Iterator[NDArray[np.uint8]]:
    """RGB images [H, W, 3] of the frames whose features were written, in their order."""
    for recording, bag in enumerate(bags):
        used = set(numbers[recordings == recording].tolist())
        yield from (frame.rgb() for number, frame in enumerate(open_source(Path(bag), topic)) if number in used)


def errors(file: Path, target: str, student: str) -> dict[str, float]:
    """Mean distance in meters between predicted and true points in the test frames, by what the head sees."""
    group: Any = zarr.open_group(file, mode="r")
    about = group.attrs["dino_ros"]
    recordings, numbers, stamps = (group[name][:] for name in ("recording", "frame", "stamp"))
    bags, topic = about["recordings"], about["topic"]
    actions = np.concatenate(
        [nearest_object(Path(bag), target, stamps[recordings == number]) for number, bag in enumerate(bags)]
    )
    random = open_encoders([student or about["student"].removesuffix(".onnx"), "random"]).popitem()[1]
    seen = {
        "always the mean": np.zeros((len(actions), 1)),
        "pixels": np.stack([resize(rgb, *PIXELS).ravel() for rgb in frames(bags, topic, recordings, numbers)]).astype(
            float
        ),
        "random ViT": encode(random, frames(bags, topic, recordings, numbers))["patches"],
        about["student"]: averaged(group["features"]),
    }
    known = ~np.isnan(actions).any(axis=1)
    y = actions[known]
    split = split_by_time(np.flatnonzero(known))  # by number: the later scenes are those of the test
    found = {}
    for name, vectors in seen.items():
        predicted = predict(Ridge, STRENGTHS, scaled(vectors[known], split.train), y, split)
        found[name] = float(np.linalg.norm(predicted - y[split.test], axis=1).mean())
    return found


def main() -> None:
    """Parse the command line, fit the heads and print their errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="what `dino-ros features` wrote, a .zarr of one bag or more")
    parser.add_argument("--target", required=True, help="topic of the bags with the objects' poses")
    parser.add_argument("--student", default="", help="the student's file, unless it is a bundled one: for its shape")
    options = parser.parse_args()
    try:
        for name, error in errors(options.features, options.target, options.student).items():
            print(f"{100 * error:6.1f} cm  {name}")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
