"""Probes against formulas, their split by hand, and a bag whose targets are known functions of the pixels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from bags import encoded, write_topics
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from dino_ros.errors import UserError
from dino_train import cli
from dino_train.evaluation.probing import probe

POINT = get_typestore(Stores.ROS2_JAZZY).types["geometry_msgs/msg/Point"]


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    for shape in ((60, 12), (20, 40)):
        vectors = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5
        train = np.arange(shape[0]) < shape[0] * 0.7
        centered = vectors - vectors[train].mean(axis=0)
        expected = centered @ np.linalg.svd(centered[train], full_matrices=False)[2][:6].T
        found = probe.principal_components(vectors, train, 6)
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
        assert probe.principal_components(vectors, train, 99).shape[1] == min(train.sum() - 1, shape[1])


def test_predictions_are_those_of_the_formulas() -> None:
    """Ridge by its normal equations with the intercept left free, k-NN by sorted distances."""
    rng = np.random.default_rng(1)
    x = 3 + rng.normal(size=(40, 8))
    y = x @ rng.normal(size=(8, 2)) + rng.normal(size=(40, 2)) + 7
    split = probe.split_by_time(np.arange(40, dtype=np.int64))
    known, y_known, asked = x[split.train], y[split.train], x[split.test]
    bordered = np.hstack([known, np.ones((len(known), 1))])
    penalty = np.diag([2.0] * 8 + [0.0])
    solution = np.linalg.solve(bordered.T @ bordered + penalty, bordered.T @ y_known)
    np.testing.assert_allclose(probe.predict(Ridge, [2.0], x, y, split), asked @ solution[:8] + solution[8], rtol=1e-8)
    expected = [y_known[np.argsort(np.linalg.norm(known - one, axis=1))[:3]].mean(axis=0) for one in asked]
    np.testing.assert_allclose(probe.predict(KNeighborsRegressor, [3], x, y, split), expected, rtol=1e-10)


def test_parts_are_apart_in_time_whatever_the_rate() -> None:
    seconds = np.array([*range(0, 40, 4), *range(40, 101)])  # the camera became faster
    parts = [seconds[part].tolist() for part in probe.split_by_time(seconds * 10**9).parts()]
    assert parts == [
        [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, *range(40, 50)],
        [*range(55, 70)],
        [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, *range(40, 70)],
        [*range(75, 101)],
    ]


def test_the_parameter_is_chosen_before_the_test_and_for_each_target() -> None:
    """A parameter that is best in validation, and not the one that is best in the test, answers."""
    y = np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 9.0]])
    split = probe.Split(*(np.array(part, bool) for part in ([1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1])))
    fitted = []

    class Constant:
        def __init__(self, value: float) -> None:
            self.value = value

        def fit(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> "Constant":
            fitted.append(x.ravel().tolist())
            self.targets = y.shape[1]
            return self

        def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.full((len(x), self.targets), self.value)

    predictions = probe.predict(Constant, [0.9, 2.0, 4.0, 9.0], np.array([[10.0], [11.0], [12.0]]), y, split)
    assert predictions.tolist() == [[0.9, 4.0]]
    assert fitted == [*[[10.0]] * 4, [10.0, 11.0], [10.0, 11.0]], "the test frame is never seen"


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 16 s: the red of all pixels and the place of a square are said by a topic, and noise is."""
    rng = np.random.default_rng(0)
    images, points, joints = [], [], []
    for _ in range(160):
        red, x, y = int(rng.integers(0, 256)), int(rng.integers(0, 40)), int(rng.integers(0, 24))
        image = np.full((32, 48, 3), (red, 60, 90), np.uint8)
        cv2.rectangle(image, (x, y), (x + 7, y + 7), (red, 255, 255), -1)
        images.append(encoded("png", image))
        points.append(("geometry_msgs/msg/PointStamped", (POINT(red / 255, float(x), 1.0),)))
        joints.append(("sensor_msgs/msg/JointState", (["noise"], rng.normal(size=1), np.zeros(0), np.zeros(0))))
    topics = {"/camera": images, "/point": points, "/joints": joints}
    return write_topics(tmp_path_factory.mktemp("probe") / "bag", topics)


def test_known_functions_of_the_pixels_are_found_and_noise_is_not(student: Path, bag: Path, tmp_path: Path) -> None:
    for target in ("/point", "/joints"):
        out = tmp_path / f"{target[1:]}.json"
        command = ["evaluate", "probe", str(student), "--data", str(bag), "--target", target, "--out", str(out)]
        cli.run(command)
    rows = json.loads((tmp_path / "point.json").read_text())["rows"]
    r2 = {(row["features"], row["target"]): (row["ridge R2"], row["k-NN R2"]) for row in rows}
    # The student's embedding is the mean color, its features those of the patches; see students.py.
    assert set(r2) == {
        (features, target)
        for features in ("embedding (3)", "patches (48)", "PCA (3)", "PCA (48)")
        for target in ("point.x", "point.y", "mean")
    }, "point.z is always 1"
    assert min(r2["embedding (3)", "point.x"]) > 0.99
    assert min(r2["patches (48)", "point.x"]) > 0.9
    assert r2["embedding (3)", "point.y"][0] < 0.1, "the mean color does not say where the square is"
    assert r2["patches (48)", "point.y"][0] > 0.9
    assert r2["PCA (48)", "point.y"][0] > 0.8
    for features in ("embedding (3)", "patches (48)"):
        both = [r2[features, target][0] for target in ("point.x", "point.y")]
        assert r2[features, "mean"][0] == pytest.approx(sum(both) / 2)
    for row in json.loads((tmp_path / "joints.json").read_text())["rows"]:
        assert row["target"] in ("position.noise", "mean")
        assert max(row["ridge R2"], row["k-NN R2"]) < 0.2


def test_errors_are_in_the_topics_units_and_only_frames_with_a_value_count(student: Path, bag: Path) -> None:
    recording = probe.open_recording(bag, None, "/point", ["point.x"])
    assert len(recording.frame_numbers) == 160
    red = recording.targets["point.x"]
    gone = red.copy()
    gone[::3] = np.nan
    stretched = probe.ProbeRecording(
        recording.source, recording.frame_numbers, recording.split, {"a": red, "b": 1000 * gone}
    )
    x = np.stack([red, red**2], axis=1)
    a, b = probe.score_features("exact", "x", x, stretched)
    assert a.ridge_error < 1e-3 > b.ridge_error / 1000
    assert a.knn_error < 0.03
    assert b.knn_error > 100 * a.knn_error
    assert b.dimensions == 2


def test_what_cannot_be_probed_is_named(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"point\.z of /point cannot be probed"):
        probe.open_recording(bag, None, "/point", ["point.z"])
    short = {"/camera": [encoded("png", np.zeros((8, 8, 3), np.uint8))] * 8}
    points = [("geometry_msgs/msg/PointStamped", (POINT(float(number), 0.0, 0.0),)) for number in range(8)]
    path = write_topics(tmp_path / "short", {**short, "/point": points})
    with pytest.raises(UserError, match=r"/point has no value that varies .* 8 frames"):
        probe.open_recording(path, None, "/point")
    with pytest.raises(UserError, match=r"point\.x of /point cannot be probed: .* 1 frames"):
        probe.open_recording(path, None, "/point", ["point.x"])
    assert list(probe.open_recording(bag, None, "/point", ["point"]).targets) == ["point.x", "point.y"]
    with pytest.raises(UserError, match="has no topic /nothing"):
        probe.open_recording(bag, None, "/nothing")
