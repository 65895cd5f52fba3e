"""Copy detection: pooling and whitening against NumPy, and distorted copies of real images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shapes import KINDS, render_shape
from students import expected

from dino_ros.errors import UserError
from dino_ros.perception.perceiver import Perceiver
from dino_train.cli import run
from dino_train.evaluation.encoders import TorchEncoder, random_vit
from dino_train.evaluation.ranking.copy_detection import copy_descriptors, copy_detection_scores, gem, whiten
from dino_train.evaluation.ranking.ground_truth import read_ground_truth


def test_pooling_is_the_fourth_root_of_the_mean_fourth_power() -> None:
    features = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    features[:, :, 6] = -1
    slow = [
        (sum(max(float(v), 1e-6) ** 4 for v in features[:, :, channel].ravel()) / 15) ** 0.25 for channel in range(7)
    ]
    np.testing.assert_allclose(gem(features), slow, rtol=1e-9)
    assert gem(features)[6] == pytest.approx(1e-6)


def test_a_descriptor_is_the_embedding_and_the_pooled_patches(tmp_path: Path, student: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 48, 3), np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), image[:, :, ::-1])
    seen = expected(images)
    pooled = (np.maximum(seen["features"], 1e-6) ** 4).mean(axis=(1, 2)) ** 0.25
    descriptors = copy_descriptors(Perceiver.load(student), files)
    np.testing.assert_allclose(descriptors, np.concatenate([seen["embedding"], pooled], axis=1), atol=1e-5)


def test_whitening_undoes_a_mixture() -> None:
    """Whitened vectors have the inner products of the inverse covariance, whichever way they are turned."""
    rng = np.random.default_rng(2)
    mixture = rng.normal(size=(8, 8))
    others, vectors = (rng.normal(size=(count, 8)) @ mixture + 3 for count in (200, 20))
    np.testing.assert_allclose(np.cov(whiten(others, others), rowvar=False), np.eye(8), atol=1e-9)
    centered = vectors - others.mean(axis=0)
    expected = centered @ np.linalg.inv(np.cov(others, rowvar=False)) @ centered.T
    whitened = whiten(vectors, others)
    np.testing.assert_allclose(whitened @ whitened.T, expected, rtol=1e-6, atol=1e-6)


def test_whitening_does_not_blow_up_what_does_not_vary() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(100, 4)) * (1, 1, 1, 1e-12)
    vectors[0, 3] = 1e-9
    assert np.abs(whiten(vectors, vectors)).max() < 5, "unbounded it would be 10: the outlier's share"


def distort(image: np.ndarray) -> dict[str, np.ndarray]:
    """An image compressed, cropped and blurred, as Copydays has it."""
    height, width = image.shape[:2]
    compressed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
    return {
        "jpeg": cv2.imdecode(compressed, cv2.IMREAD_COLOR),
        "crop": image[height // 10 : -height // 10, width // 10 : -width // 10],
        "blur": cv2.GaussianBlur(image, (0, 0), width / 60),
    }


def write_copies(folder: Path, images: dict[str, np.ndarray]) -> Path:
    """Write images as database and distorted copies as queries; returns the ground truth."""
    entries = {}
    for part in ("originals", "copies"):
        (folder / "images" / part).mkdir(parents=True)
    for name, image in images.items():
        cv2.imwrite(str(folder / "images" / "originals" / f"{name}.png"), image)
        for kind, copy in distort(image).items():
            cv2.imwrite(str(folder / "images" / "copies" / f"{name}_{kind}.png"), copy)
            entries[f"copies/{name}_{kind}.png"] = {"positives": [f"originals/{name}.png"]}
    (folder / "truth.json").write_text(json.dumps(entries))
    return folder / "truth.json"


def test_the_command_finds_copies_of_shapes(tmp_path: Path, student: Path) -> None:
    rng = np.random.default_rng(4)
    truth = write_copies(tmp_path, {f"{i}": render_shape(i % KINDS, rng) for i in range(12)})
    (tmp_path / "others").mkdir()
    for i in range(7):
        cv2.imwrite(str(tmp_path / "others" / f"{i}.png"), render_shape(i % KINDS, rng))
    command = ["evaluate", "copy_detection", str(student), "--data", str(tmp_path / "images"), "--truth", str(truth)]
    found = {}
    for whitening in ([], ["--whitening", str(tmp_path / "others")]):
        run([*command, *whitening, "--out", str(tmp_path / "scores.json")])
        (row,) = json.loads((tmp_path / "scores.json").read_text())["rows"]
        assert row["mAP"] > 0.3, "chance is near a tenth"
        found[len(whitening)] = row["mAP"]
    assert found[0] != found[2]
    (tmp_path / "others" / "0.png").unlink()
    with pytest.raises(UserError, match=r"others holds 6 images.* 6 values"):
        run([*command, "--whitening", str(tmp_path / "others")])


def test_copies_of_real_images_are_found(test_data: Path, tmp_path: Path) -> None:
    files = sorted((test_data / "caltech101" / "val").rglob("*.jpg"))[::50]
    truth = write_copies(tmp_path, {str(i): cv2.imread(str(file)) for i, file in enumerate(files)})
    encoder = TorchEncoder(random_vit("table_vit_micro_8"), (48, 64))
    scores = copy_detection_scores(encoder, read_ground_truth(tmp_path / "images", truth))
    assert len(files) > 10
    assert scores.mean_average_precision > 0.7
    assert scores.recall[10] > 0.8
