"""Probes against scikit-learn, their split by hand, and a bag whose numbers are known functions of the pixels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import encoded, write_topics
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

torch = pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_train import cli
from dino_train.evaluation.probing import probe
from dino_train.evaluation.probing.regression import nearest_mean, r2_scores, ridge

POINT = get_typestore(Stores.ROS2_JAZZY).types["geometry_msgs/msg/Point"]


def data(frames: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    x, asked = (3 + rng.normal(size=(count, size)) for count in (frames, 11))
    return x, x @ rng.normal(size=(size, 2)) + rng.normal(size=(frames, 2)) + 7, asked


@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])
def test_ridge_is_scikit_learns(shape: tuple[int, int]) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, asked = data(*shape)
    strengths = [0.01, 1.0, 100.0]
    for strength, answer in zip(strengths, ridge(x, y, asked, strengths), strict=True):
        np.testing.assert_allclose(answer, linear_model.Ridge(strength).fit(x, y).predict(asked), rtol=1e-8)


def test_nearest_mean_is_scikit_learns() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    x, y, asked = data(60, 8)
    for k, answer in zip((1, 3, 60), nearest_mean(x, y, asked, [1, 3, 60]), strict=True):
        np.testing.assert_allclose(answer, neighbors.KNeighborsRegressor(k).fit(x, y).predict(asked), rtol=1e-10)
    np.testing.assert_allclose(nearest_mean(x, y, asked, [99])[0], np.tile(y.mean(axis=0), (11, 1)))


def test_r2_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    _, truth, _ = data(40, 3)
    answers = truth + [0.5, 3.0] * np.random.default_rng(1).normal(size=truth.shape)
    expected = metrics.r2_score(truth, answers, multioutput="raw_values")
    assert expected[1] < 0 < expected[0], "the case has both signs"
    np.testing.assert_allclose(r2_scores(truth, answers), expected)


def test_parts_are_apart_in_time_whatever_the_rate() -> None:
    seconds = np.array([*range(0, 40, 4), *range(40, 101)])  # the camera became faster
    parts = [seconds[part].tolist() for part in probe.split_by_time(seconds * 10**9).parts()]
    assert parts == [
        [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, *range(40, 50)],
        [*range(55, 70)],
        [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, *range(40, 70)],
        [*range(75, 101)],
    ]


def test_the_parameter_is_chosen_before_the_test_and_for_each_number() -> None:
    """A parameter that is best in validation, and not the one that is best in the test, answers."""
    y = np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 9.0]])
    split = probe.Split(*(np.array(part, bool) for part in ([1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1])))
    learnt = []

    def constants(
        x: NDArray[np.float64], y: NDArray[np.float64], asked: NDArray[np.float64], parameters: list[float]
    ) -> list[NDArray[np.float64]]:
        learnt.append(x.ravel().tolist())
        return [np.full((len(asked), 2), value) for value in parameters]

    answer = probe.answer(constants, [0.9, 2.0, 4.0, 9.0], np.array([[10.0], [11.0], [12.0]]), y, split)
    assert answer.tolist() == [[0.9, 4.0]]
    assert learnt == [[10.0], [10.0, 11.0]]


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
    r2 = {(row["features"], row["number"]): (row["ridge R2"], row["k-NN R2"]) for row in rows}
    # The student's embedding is the mean color, its features those of the patches; see students.py.
    assert set(r2) == {
        (features, number)
        for features in ("embedding (3)", "patches (48)", "PCA (3)", "PCA (48)")
        for number in ("point.x", "point.y", "mean")
    }, "point.z is always 1"
    assert min(r2["embedding (3)", "point.x"]) > 0.99
    assert min(r2["patches (48)", "point.x"]) > 0.9
    assert r2["embedding (3)", "point.y"][0] < 0.1, "the mean color does not say where the square is"
    assert r2["patches (48)", "point.y"][0] > 0.9
    assert r2["PCA (48)", "point.y"][0] > 0.8
    for features in ("embedding (3)", "patches (48)"):
        both = [r2[features, number][0] for number in ("point.x", "point.y")]
        assert r2[features, "mean"][0] == pytest.approx(sum(both) / 2)
    for row in json.loads((tmp_path / "joints.json").read_text())["rows"]:
        assert row["number"] in ("position.noise", "mean")
        assert max(row["ridge R2"], row["k-NN R2"]) < 0.2


def test_errors_are_in_the_topics_units_and_only_frames_with_the_number_count(student: Path, bag: Path) -> None:
    recording = probe.open_recording(bag, None, "/point", ["point.x"])
    assert len(recording.numbers) == 160
    red = recording.targets["point.x"]
    gone = red.copy()
    gone[::3] = np.nan
    stretched = probe.Recording(recording.source, recording.numbers, recording.split, {"a": red, "b": 1000 * gone})
    x = np.stack([red, red**2], axis=1)
    a, b = probe._score("exact", "x", x, stretched)
    assert a.ridge_error < 1e-3 > b.ridge_error / 1000
    assert a.knn_error < 0.03
    assert b.knn_error > 100 * a.knn_error
    assert b.dimensions == 2


def test_what_cannot_be_probed_is_named(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"point\.z of /point cannot be probed: it does not vary"):
        probe.open_recording(bag, None, "/point", ["point.z"])
    short = {"/camera": [encoded("png", np.zeros((8, 8, 3), np.uint8))] * 8}
    points = [("geometry_msgs/msg/PointStamped", (POINT(float(number), 0.0, 0.0),)) for number in range(8)]
    path = write_topics(tmp_path / "short", {**short, "/point": points})
    with pytest.raises(UserError, match="no number that varies in each part of the 8 frames"):
        probe.open_recording(path, None, "/point")
    with pytest.raises(UserError, match=r"point\.x of /point cannot be probed: a part .* in 1 frames only"):
        probe.open_recording(path, None, "/point", ["point.x"])
    assert list(probe.open_recording(bag, None, "/point", ["point"]).targets) == ["point.x", "point.y"]
    with pytest.raises(UserError, match="has no topic /nothing"):
        probe.open_recording(bag, None, "/nothing")
