"""k-NN classification against a slow loop, and labeled folders against Pillow and real images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_train.evaluation.classification import knn
from dino_train.evaluation.classification.class_folder import center_crop, embed_files, open_class_folder
from dino_train.models.backbones import build_backbone
from dino_train.recipes import BackboneConfig

TINY = BackboneConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3)


def slow_accuracy(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], truth: NDArray[np.int64], k: int
) -> float:
    """Image by image, vote by vote."""
    correct = 0
    for vector, label in zip(test, truth, strict=True):
        similarities = [float(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)) for other in train]
        votes: dict[int, float] = {}
        for index in sorted(range(len(train)), key=lambda i: -similarities[i])[:k]:
            votes[int(labels[index])] = votes.get(int(labels[index]), 0.0) + np.exp(similarities[index] / 0.07)
        correct += max(votes, key=lambda name: votes[name]) == label
    return correct / len(test)


def test_accuracies_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", 37)  # so that the test images do not fit one chunk
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(7, 16))
    labels, truth = rng.integers(0, 7, 150), rng.integers(0, 7, 90)
    train, test = (centers[kinds] + 1.6 * rng.normal(size=(len(kinds), 16)) for kinds in (labels, truth))
    tensors = [torch.from_numpy(array) for array in (train, labels, test, truth)]
    neighbors = [1, 5, 20, 150, 999]
    expected = {k: slow_accuracy(train, labels, test, truth, k) for k in neighbors}
    assert len(set(expected.values())) > 2, "the case tells the k apart"
    assert knn.knn_accuracies(*tensors, neighbors) == pytest.approx(expected)
    assert knn.knn_accuracies(*tensors, [20])[20] == pytest.approx(expected[20])


def test_accuracies_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(6)
    centers = rng.normal(size=(9, 12))
    labels, truth = rng.integers(0, 9, 400), rng.integers(0, 9, 150)
    train, test = (centers[kinds] + 1.5 * rng.normal(size=(len(kinds), 12)) for kinds in (labels, truth))
    unit_train, unit_test = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (train, test))

    def weight(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of unit vectors: the squared distance is 2 - 2 cosine."""
        return np.exp((1 - distances**2 / 2) / 0.07)

    expected = {
        k: neighbors.KNeighborsClassifier(k, weights=weight).fit(unit_train, labels).score(unit_test, truth)
        for k in knn.NEIGHBORS
    }
    assert len(set(expected.values())) > 1, "the case tells the k apart"
    tensors = [torch.from_numpy(array) for array in (train, labels, test, truth)]
    assert knn.knn_accuracies(*tensors, knn.NEIGHBORS) == pytest.approx(expected)


def test_nothing_to_compare_is_refused() -> None:
    some, none = torch.ones(3, 4), torch.ones(0, 4)
    labels = torch.zeros(3, dtype=torch.int64)
    for train, test in ((some, none), (none, some)):
        with pytest.raises(UserError, match="at least one training and one test image"):
            knn.knn_accuracies(train, labels[: len(train)], test, labels[: len(test)], [20])


@pytest.mark.parametrize("shape", [(90, 200), (300, 61), (24, 20), (73, 73)])
def test_the_center_crop_is_pillows(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = pytest.importorskip("PIL.Image")
    rgb = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8), (0, 0), 1.5)
    cv2.imwrite(str(tmp_path / "image.png"), rgb[:, :, ::-1])
    crop = center_crop(tmp_path / "image.png", 56).permute(1, 2, 0).numpy()
    assert crop.shape == (56, 56, 3)
    height, width = (round(side * 64 / min(shape)) for side in shape)
    whole = np.asarray(images.fromarray(rgb).resize((width, height), images.Resampling.BICUBIC))
    top, left = (height - 56) // 2, (width - 56) // 2
    expected = whole[top : top + 56, left : left + 56]
    difference = np.abs(crop.astype(int) - expected.astype(int))
    assert difference.max() <= 2, "both directions are rounded"
    assert difference.mean() < 0.1


def class_folder(folder: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """Labeled images of one gray each."""
    for part, classes in (("train", train), ("val", val)):
        for name, count in classes.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / part / name / f"{number}.png"), np.full((20, 30, 3), 40 * number, np.uint8))
    return folder


def test_labels_count_through_the_classes_of_train(tmp_path: Path) -> None:
    folder = open_class_folder(class_folder(tmp_path, {"cup": 2, "apple": 1, "dog": 3}, {"dog": 1, "cup": 1}))
    assert folder.classes == ["apple", "cup", "dog"]
    assert folder.train.labels == [0, 1, 1, 2, 2, 2]
    assert [(file.parent.name, label) for file, label in zip(folder.val.files, folder.val.labels, strict=True)] == [
        ("cup", 1),
        ("dog", 2),
    ]


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        (None, None, "labeled is not a folder"),
        ({"cup": 1}, {}, "val is not a folder"),
        ({"cup": 0}, {"cup": 1}, "train holds no folder with images"),
        ({"cup": 2}, {"cup": 1}, "train has only the class 'cup'"),
        ({"cup": 1}, {"cup": 1, "dog": 2, "elk": 1}, "val has 2 classes that are not in train, such as 'dog'"),
    ],
)
def test_a_folder_that_cannot_be_used_gets_one_sentence(
    tmp_path: Path, train: dict[str, int] | None, val: dict[str, int] | None, sentence: str
) -> None:
    if train is not None and val is not None:
        class_folder(tmp_path / "labeled", train, val)
    with pytest.raises(UserError, match=sentence):
        open_class_folder(tmp_path / "labeled")


def test_few_images_all_vote(tmp_path: Path) -> None:
    folder = open_class_folder(class_folder(tmp_path, {"cup": 4, "dog": 3}, {"cup": 1}))
    assert list(knn.knn_on_folder(build_backbone(TINY, 16), folder, 16)) == [7]


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    folder = open_class_folder(class_folder(tmp_path, {"cup": 2, "dog": 1}, {"cup": 1}))
    folder.val.files[0].write_bytes(b"no image")
    with pytest.raises(UserError, match=r"val/cup/0\.png does not decode"):
        knn.knn_on_folder(build_backbone(TINY, 16), folder, 16)


def test_real_images_are_told_apart_better_than_by_chance(test_data: Path, tmp_path: Path) -> None:
    names = ["Faces_easy", "Leopards", "Motorbikes", "airplanes", "car_side"]
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).symlink_to(test_data / "caltech101" / part / name)
    folder = open_class_folder(tmp_path)
    torch.manual_seed(0)
    vit = build_backbone(TINY, 32)
    accuracies = knn.knn_on_folder(vit, folder, 32)
    assert accuracies[20] > 0.5, "chance is one in five"
    train, val = (embed_files(vit, part.files, 32).double().numpy() for part in (folder.train, folder.val))
    labels, truth = (np.array(part.labels) for part in (folder.train, folder.val))
    assert accuracies[10] == pytest.approx(slow_accuracy(train, labels, val, truth, 10), abs=1.01 / len(truth))
