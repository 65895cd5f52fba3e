"""Linear classification: features against timm's blocks one by one, training against NumPy and scikit-learn."""

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from reference_vit import FAMILIES, shake
from shapes import KINDS, render_shape

from dino_ros.errors import UserError
from dino_train.cli import run
from dino_train.evaluation.classification.class_folder import LabeledFiles, open_class_folder
from dino_train.evaluation.classification.frozen_features import CropFeatures, WholeFeatures
from dino_train.evaluation.classification.linear import (
    LinearSettings,
    RandomCropBatches,
    StoredBatches,
    accuracy,
    linear_scores,
    new_classifiers,
    train_classifiers,
)
from dino_train.evaluation.encoders import TorchEncoder, random_vit
from dino_train.models.backbones import build_backbone, create_vit, mean_and_std, patch_size
from dino_train.recipes import BackboneConfig

Array = NDArray[np.float64]
TINY = BackboneConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=5, num_heads=3)


def block_by_block(vit: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Tokens [B, N, C] after each block, normed, of uint8 images [B, 3, H, W]; `vit` becomes float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in mean_and_std(vit))
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda *call: seen.append(call[-1])) for block in vit.double().blocks]
    with torch.no_grad():
        vit.forward_features((images.double() / 255 - mean) / std)  # of which CLS alone leaves out some
        normed = [vit.norm(tokens) for tokens in seen]
    for handle in handles:
        handle.remove()
    return normed


@pytest.mark.parametrize("name", ["own", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize(("blocks", "patches"), [(1, False), (3, True)])
def test_features_are_cls_tokens_of_the_last_blocks_and_the_mean_of_the_patches(
    name: str, blocks: int, patches: bool
) -> None:
    vit = shake(build_backbone(TINY, 32) if name == "own" else create_vit(name, depth=4, **FAMILIES[name]))
    side = 3 * patch_size(vit)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, side, side), np.uint8))
    features = CropFeatures(vit, side, blocks, patches)(crops)
    tokens = block_by_block(vit, crops)
    expected = [layer[:, 0] for layer in tokens[-blocks:]]
    if patches:
        expected.append(tokens[-1][:, vit.num_prefix_tokens :].mean(dim=1))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.double(), torch.cat(expected, dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "depth", "blocks", "patches"),
    [(48, 5, 4, False), (48, 2, 2, False), (384, 4, 4, False), (768, 4, 1, True)],
)
def test_the_width_decides_as_in_the_paper(width: int, depth: int, blocks: int, patches: bool) -> None:
    vit = build_backbone(BackboneConfig("vit_tiny_patch16_224", embed_dim=width, depth=depth), 32)
    features = CropFeatures(vit, 32)
    assert (features.blocks, features.patches) == (blocks, patches)
    assert WholeFeatures(TorchEncoder(vit, (32, 48))).patches == patches
    assert CropFeatures(vit, 32, patches=not patches).patches != patches


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match="--blocks 6 is more than the 5 blocks"):
        CropFeatures(build_backbone(TINY, 32), 32, blocks=6)


def test_whole_images_are_mirrored_before_the_encoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, 24, 40, 3), np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), image[:, :, ::-1])
    vit = shake(build_backbone(TINY, 32))
    features = WholeFeatures(TorchEncoder(vit, (24, 40)), patches=True)
    got = [features.of_files(files, mirrored) for mirrored in (False, True)]
    for found, shown in zip(got, (images, images[:, :, ::-1]), strict=True):
        tokens = block_by_block(vit, torch.from_numpy(shown.copy()).permute(0, 3, 1, 2))[-1]
        expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_training_is_a_literal_sgd() -> None:
    """With momentum, a rate scaled by the batch and a cosine that moves each epoch; the classifiers apart."""
    rng = np.random.default_rng(2)
    batches = [(rng.normal(size=(count, 6)), rng.integers(0, 4, count)) for count in (16, 16, 5)]
    settings = LinearSettings(epochs=7, batch=16, rates=(0.5, 4.0))
    tensors = [(torch.from_numpy(x).float(), torch.from_numpy(y)) for x, y in batches]
    classifiers = new_classifiers(tensors[0][0], 4, 2)
    first = classifiers[0].weight.detach().double().numpy()
    assert 0.005 < first.std() < 0.015
    expected = []
    for rate in settings.rates:
        weight, bias, velocity = first.copy(), np.zeros(4), [np.zeros((4, 6)), np.zeros(4)]
        for epoch in range(7):
            step = rate * 16 / 256 * (1 + math.cos(math.pi * epoch / 7)) / 2
            for x, y in batches:
                error = (softmax(x @ weight.T + bias) - np.eye(4)[y]) / len(x)
                velocity = [0.9 * v + g for v, g in zip(velocity, (error.T @ x, error.sum(axis=0)), strict=True)]
                weight, bias = weight - step * velocity[0], bias - step * velocity[1]
        expected.append((weight, bias))
    train_classifiers(tensors, classifiers, settings)
    for classifier, (weight, bias) in zip(classifiers, expected, strict=True):
        np.testing.assert_allclose(classifier.weight.detach().numpy(), weight, atol=1e-5)
        np.testing.assert_allclose(classifier.bias.detach().numpy(), bias, atol=1e-5)
    assert np.abs(expected[0][0] - expected[1][0]).max() > 0.1, "the case tells the rates apart"


def test_training_ends_where_logistic_regression_does() -> None:
    models = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(size=(3, 5))[labels] + 1.5 * rng.normal(size=(300, 5))  # they overlap: there is one optimum
    stored = torch.from_numpy(features).float()
    batches = StoredBatches(stored[None], torch.from_numpy(labels), 300)
    settings = LinearSettings(epochs=300, batch=300, rates=(0.5,))
    (classifier,) = classifiers = new_classifiers(stored, 3, 1)
    train_classifiers(batches, classifiers, settings)
    optimum = models.LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features, labels)
    ours = classifier(stored).softmax(dim=1).detach().numpy()
    assert np.abs(ours - optimum.predict_proba(features)).max() < 0.01


def test_an_epoch_sees_every_image_once_in_one_of_its_versions() -> None:
    numbers = torch.arange(50.0)
    batches = StoredBatches(torch.stack([numbers, -1 - numbers])[..., None], torch.arange(50) % 7, 16)
    epochs = []
    for _ in range(2):
        drawn = list(batches)
        assert [len(labels) for _, labels in drawn] == [16, 16, 16, 2]
        features = torch.cat([features[:, 0] for features, _ in drawn])
        images = torch.where(features < 0, -1 - features, features)
        assert sorted(images.tolist()) == numbers.tolist()
        assert torch.equal(images.long() % 7, torch.cat([labels for _, labels in drawn]))
        assert 10 < (features < 0).sum() < 40
        epochs.append(features)
    assert not torch.equal(*epochs)


class Corners(CropFeatures):
    """Shows the crops themselves: the colors at the left and right of the middle row, top and bottom of the column."""

    def __init__(self) -> None:
        self.side = 32

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        columns, rows = crops[:, 0].float(), crops[:, 1].float()
        return torch.stack([columns[:, 16, 4], columns[:, 16, -5], rows[:, 4, 16], rows[:, -5, 16]], dim=1)


def test_random_crops_are_those_of_imagenet(tmp_path: Path) -> None:
    """Red counts columns and green rows, so a crop tells where it was cut: 8 to 100 % of the area, 3:4 to 4:3."""
    ramp = np.zeros((200, 240, 3), np.uint8)
    ramp[:, :, 2], ramp[:, :, 1] = np.arange(240), np.arange(200)[:, None]  # BGR
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp)
    part = LabeledFiles([tmp_path / "ramp.png"] * 150, list(range(150)))
    batches = RandomCropBatches(Corners(), part, 64)
    epochs = [list(batches) for _ in range(2)]
    assert [len(labels) for _, labels in epochs[0]] == [64, 64, 22]
    assert sorted(torch.cat([labels for _, labels in epochs[0]]).tolist()) == part.labels
    left, right, top, bottom = np.concatenate([features.numpy() for features, _ in epochs[0]]).T
    width, height = np.abs(right - left) * 32 / 23, (bottom - top) * 32 / 23  # pixels 4 and 27 of 32
    share, shape = width * height / (200 * 240), width / height
    assert 0.07 < share.min() < 0.2
    assert 0.8 < share.max() < 1.03
    assert 0.72 < shape.min() < 0.85
    assert 1.2 < shape.max() < 1.38
    assert 50 < (right < left).sum() < 100, "half are mirrored"
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_accuracies_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
    found = accuracy(torch.from_numpy(scores), torch.from_numpy(labels))
    expected = [metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(12)) for k in (1, 5)]
    assert [found.top1, found.top5] == pytest.approx(expected)
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 1])).top5 == 1.0


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Rendered shapes by kind."""
    rng = np.random.default_rng(5)
    for part, count in (("train", 24), ("val", 8)):
        for kind in range(KINDS):
            folder = tmp_path / part / f"kind{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number}.png"), render_shape(kind, rng)[:, :, ::-1])
    return tmp_path


@pytest.mark.parametrize("augmentation", ["crops", "flips"])
def test_shapes_are_learnt_from_either_kind_of_features(shapes: Path, augmentation: str) -> None:
    torch.manual_seed(0)
    encoder = TorchEncoder(build_backbone(dataclasses.replace(TINY, depth=2), 32), (32, 32))
    settings = LinearSettings(epochs=8, batch=32, rates=(1e-7, 0.3), augmentation=augmentation)
    scores = linear_scores(encoder, open_class_folder(shapes), settings)
    assert scores.features == "CLS of 2 blocks"
    assert scores.best == 0.3
    assert scores.accuracies[0.3].top1 > 0.7, "chance is one in four"
    assert scores.accuracies[1e-7].top1 < scores.accuracies[0.3].top1, "the classifiers learn at their own rates"


def test_a_training_image_that_does_not_decode_is_named(shapes: Path) -> None:
    (shapes / "train" / "kind1" / "3.png").write_bytes(b"no image")
    encoder = TorchEncoder(build_backbone(TINY, 32), (32, 32))
    for augmentation in ("crops", "flips"):
        settings = LinearSettings(1, augmentation=augmentation)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"kind1/3\.png does not decode"):
            linear_scores(encoder, open_class_folder(shapes), settings)


def test_the_command_says_what_each_encoder_was_trained_on(shapes: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    run(
        [
            "evaluate",
            "linear",
            str(student),
            "--data",
            str(shapes),
            "--epochs",
            "40",
            "--lr",
            "1e-3",
            "1",
            "--out",
            str(out),
        ]
    )
    rows = json.loads(out.read_text())["rows"]
    assert [(row["features"], row["trained on"], row["learning rate"]) for row in rows] == [
        ("embedding", "whole images, mirrored", "0.001"),
        ("embedding", "whole images, mirrored", "1"),
    ]
    assert rows[1]["top-1"] > 0.6, "the student tells mean colors, and each kind has its own"
    assert [row["best"] for row in rows] == ["", "best"]


def test_real_images_are_told_apart(test_data: Path, tmp_path: Path) -> None:
    names = ["Faces_easy", "Leopards", "Motorbikes", "airplanes", "car_side"]
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).symlink_to(test_data / "caltech101" / part / name)
    encoder = TorchEncoder(random_vit("table_vit_micro_8"), (32, 32))
    scores = linear_scores(encoder, open_class_folder(tmp_path), LinearSettings(40, augmentation="flips", rates=(0.1,)))
    assert scores.accuracies[0.1].top1 > 0.5, "chance is one in five"
