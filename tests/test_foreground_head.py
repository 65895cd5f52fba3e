"""The foreground head: the fit against its gradient, the file against the layer, objects that it must find."""

import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from students import INFO, changed, write_student

from dino_ros.errors import UserError
from dino_ros.masks.binary import jaccard
from dino_ros.masks.parameters import WITHOUT_HEAD, MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import read_student
from dino_train.cli import run
from dino_train.export.foreground_head import MOST_FITTED, WEIGHT_DECAY, along_edges, fit, foreground

ROWS, COLUMNS = INFO.grid


def scene(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Gray noise with a bright red block of some patches; the block's patches [h, w]."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((ROWS, COLUMNS), bool)
    top, left = rng.integers(0, ROWS - 1), rng.integers(0, COLUMNS - 1)
    truth[top : top + 2, left : left + 2] = True
    image = rng.normal(90, 6, (8 * ROWS, 8 * COLUMNS, 3))
    image[np.kron(truth, np.ones((8, 8), bool))] += (150, -40, -40)
    return image.clip(0, 255).astype(np.uint8), truth


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed in range(20):
        cv2.imwrite(str(folder / f"{seed:02d}.png"), scene(seed)[0][:, :, ::-1])
    return folder


def test_the_fit_is_the_optimum_of_logistic_regression_on_soft_labels() -> None:
    """Against Newton's method in float64 on the standardized tokens."""
    rng = np.random.default_rng(0)
    tokens = (rng.normal(size=(30, 4, 5, 6)) * (1, 10, 0.1, 1, 3, 1) + (0, 5, 0, 0, -2, 0)).astype(np.float32)
    scores = tokens @ (1, -0.2, 3, 0, 0.1, 0) + rng.normal(size=(30, 4, 5))
    labels = (scores + 0.5).clip(0, 1).astype(np.float32)  # some are in between
    assert 0.1 < np.mean((labels > 0) & (labels < 1)) < 0.9
    weights, bias = fit(tokens, labels)
    x = tokens.reshape(-1, 6).astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0)
    x = np.hstack([(x - mean) / std, np.ones((len(x), 1))])
    decay = WEIGHT_DECAY * np.diag([1.0] * 6 + [0.0])
    optimum = np.zeros(7)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ optimum))
        gradient = x.T @ (p - labels.ravel()) / len(x) + decay @ optimum
        optimum -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x / len(x) + decay, gradient)
    np.testing.assert_allclose(weights, optimum[:6] / std, rtol=2e-3, atol=2e-3)
    expected = 1 / (1 + np.exp(-x @ optimum))
    np.testing.assert_allclose(foreground(tokens, weights, bias).ravel(), expected, atol=2e-3)


def test_a_head_finds_objects_that_it_was_not_shown(
    student: Path, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "with_head.onnx"
    run(["head", str(student), str(scenes), "--out", str(out)])
    assert "only 20 images" in caplog.text
    before, after = Perceiver.load(student, "onnxruntime"), Perceiver.load(out, "onnxruntime")
    assert after.info.foreground_head["images"] == 20
    assert MaskParameters().resolve(after.info).method == "foreground"
    overlaps = []
    for seed in range(100, 110):
        image, truth = scene(seed)
        same = ("features", "attention", "embedding")
        for name in same:
            np.testing.assert_array_equal(getattr(after(image, same), name), getattr(before(image, same), name))
        seen = after.infer([image], ["foreground"])[0]["foreground"]
        assert seen.dtype == np.float32
        overlaps.append(jaccard(seen > 0.5, truth))
    assert np.mean(overlaps) > 0.9


def test_a_head_takes_the_place_of_another(student: Path, scenes: Path, tmp_path: Path) -> None:
    """The file is as if there had never been another."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    run(["head", str(student), str(scenes), "--out", str(first)])
    run(["head", str(first), str(scenes), "--replace", "--out", str(second)])
    files = [onnx.load(path) for path in (first, second)]
    assert files[0].graph == files[1].graph


def test_with_ground_truth_it_says_what_the_head_gains(
    student: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed in range(20):
        truth = np.kron(scene(seed)[1], np.ones((8, 8), np.uint8)) * np.uint8(255)
        cv2.imwrite(str(masks / f"{seed:02d}.png"), truth)
    out = tmp_path / "with_head.onnx"
    run(["head", str(student), str(scenes), "--masks", str(masks), "--out", str(out)])
    perceiver = Perceiver.load(out, "onnxruntime")
    expected = []
    for method in (WITHOUT_HEAD, "foreground"):
        found = []
        for seed in range(20):
            image, truth = scene(seed)
            mask = perceiver(image, ("mask",), MaskParameters(method)).mask > 0
            found.append(jaccard(mask, np.kron(truth, np.ones((8, 8), bool))))
        expected.append(f"{np.mean(found):.2f}")
    line = next(line for line in capsys.readouterr().out.splitlines() if "ground truth" in line)
    assert re.findall(r"[01]\.\d\d", line) == expected


def test_the_head_learns_again_from_masks_along_edges() -> None:
    truth = np.zeros((96, 160), bool)
    truth[21:75, 37:111] = True
    rgb = np.where(truth[..., None], (200, 60, 40), (90, 90, 90)).astype(np.uint8)
    soft = (cv2.resize(truth.astype(np.float32), (20, 12), interpolation=cv2.INTER_AREA) > 0.5).astype(np.float32)
    exact = cv2.resize(truth.astype(np.float32), (20, 12), interpolation=cv2.INTER_AREA)
    labels = along_edges(soft, rgb)
    assert labels.shape == (12, 20)
    assert 0 <= labels.min() <= labels.max() <= 1
    assert np.abs(labels - exact).mean() < np.abs(soft - exact).mean() / 3


def test_the_fit_of_many_tokens_takes_some_of_them() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2 * MOST_FITTED, 3)).astype(np.float32)
    labels = (tokens @ (2, -1, 0) + rng.normal(size=len(tokens)) > 0.3).astype(np.float32)
    weights, bias = fit(tokens, labels)
    agree = (foreground(tokens, weights, bias) > 0.5) == (tokens @ np.float32([2, -1, 0]) > 0.3)
    assert agree.mean() > 0.98


def test_what_cannot_be_used_is_refused(student: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    run(["head", str(student), str(scenes), "--out", str(out)])
    with pytest.raises(UserError, match="has a foreground head already"):
        run(["head", str(out), str(scenes), "--out", str(tmp_path / "y.onnx")])
    few = tmp_path / "few"
    few.mkdir()
    cv2.imwrite(str(few / "0.png"), scene(0)[0])
    with pytest.raises(UserError, match="has 1 images"):
        run(["head", str(student), str(few), "--out", str(tmp_path / "y.onnx")])
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(12):
        cv2.imwrite(str(plain / f"{number}.png"), np.full((32, 48, 3), 90, np.uint8))
    with pytest.raises(UserError, match="No object was found"):
        run(["head", str(student), str(plain), "--out", str(tmp_path / "y.onnx")])
    assert not list(tmp_path.glob("y.onnx*"))


def test_a_description_that_promises_a_head_is_checked(tmp_path: Path) -> None:
    write_student(tmp_path / "student.onnx", changed(foreground_head={"labels": "background"}))
    with pytest.raises(UserError, match="has no input or output 'foreground'"):
        read_student(tmp_path / "student.onnx")
