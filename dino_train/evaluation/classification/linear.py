"""Linear classification of frozen features (Caron et al. 2021, section 3.2; facebookresearch/dino, eval_linear.py).

The best learning rate depends on the features. As in DINOv2 (Oquab et al. 2023), a classifier is trained for each of
several rates, all on the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import resized_crop

from dino_train.data.multicrop import draw_box
from dino_train.evaluation.classification.class_folder import ClassFolder, LabeledFiles
from dino_train.evaluation.classification.frozen_features import CropFeatures, FrozenFeatures, WholeFeatures
from dino_train.evaluation.encoders import Encoder, TorchEncoder, read_images
from dino_train.machine.progress import watched

SEED = 0
"""Seeds the classifiers' initial weights, the order of the images and their crops."""
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
MOMENTUM = 0.9

Batches = Iterable[tuple[Tensor, Tensor]]
"""Features [B, C] float32 and labels [B] int64; iterated once for each epoch."""


@dataclass(frozen=True)
class LinearSettings:
    """How the classifiers are trained, and on which features."""

    epochs: int = 100
    batch: int = 128
    rates: Sequence[float] = RATES
    """Initial learning rates for a batch of 256; they are scaled with the batch, and decay to 0 along a cosine."""
    augmentation: Literal["crops", "flips"] = "crops"
    """A new random crop of each training image in each epoch; or its center crop and the mirror image of that, for
    which the encoder runs only once each."""
    blocks: int | None = None
    """Last blocks whose CLS tokens are concatenated; None as `CropFeatures` chooses."""
    patches: bool | None = None
    """Whether the mean of the patch tokens is appended; None as `CropFeatures` chooses."""


@dataclass(frozen=True)
class LinearAccuracy:
    """Shares of test images, 0 to 1, whose class has the highest score, or one of the five highest."""

    top1: float
    top5: float


@dataclass(frozen=True)
class LinearScores:
    """Accuracies by learning rate, and the features and images that the classifiers were trained on."""

    features: str
    trained_on: str
    accuracies: dict[float, LinearAccuracy]

    @property
    def best(self) -> float:
        """The learning rate with the highest top-1: it is chosen on the test images."""
        return max(self.accuracies, key=lambda rate: self.accuracies[rate].top1)


def linear_scores(encoder: Encoder, folder: ClassFolder, settings: LinearSettings) -> LinearScores:
    """Train classifiers on `train`, and score them on `val`.

    The paper's features and crops need a ViT in torch of a square size. Of any other encoder the features are those of
    whole images, as on a robot, and of their mirror images. Raises UserError for a file that is no image, and for more
    blocks than the ViT has.
    """
    features: FrozenFeatures
    if isinstance(encoder, TorchEncoder) and encoder.crop_side:
        features = CropFeatures(encoder.vit, encoder.crop_side, settings.blocks, settings.patches)
        trained_on = "random crops" if settings.augmentation == "crops" else "center crops, mirrored"
    else:
        features, trained_on = WholeFeatures(encoder, settings.patches), "whole images, mirrored"
    test = features.of_files(folder.val.files)
    batches: Batches
    if isinstance(features, CropFeatures) and settings.augmentation == "crops":
        batches = RandomCropBatches(features, folder.train, settings.batch)
    else:
        versions = [features.of_files(folder.train.files, mirrored) for mirrored in (False, True)]
        labels = torch.tensor(folder.train.labels, device=test.device)
        batches = StoredBatches(torch.stack(versions), labels, settings.batch)
    classifiers = new_classifiers(test, len(folder.classes), len(settings.rates))
    train_classifiers(batches, classifiers, settings)
    truth = torch.tensor(folder.val.labels, device=test.device)
    accuracies = [accuracy(classifier(test), truth) for classifier in classifiers]
    return LinearScores(str(features), trained_on, dict(zip(settings.rates, accuracies, strict=True)))


def new_classifiers(features: Tensor, classes: int, count: int) -> list[nn.Linear]:
    """Linear classifiers for features [N, C], all with the same initial weights, drawn as the authors do."""
    classifiers = []
    for _ in range(count):
        classifier = nn.Linear(features.shape[1], classes)
        nn.init.normal_(classifier.weight, std=0.01, generator=torch.Generator().manual_seed(SEED))
        nn.init.zeros_(classifier.bias)
        classifiers.append(classifier.to(features.device))
    return classifiers


def train_classifiers(batches: Batches, classifiers: list[nn.Linear], settings: LinearSettings) -> None:
    """Train, in place, a classifier for each learning rate of the settings.

    SGD with momentum and without weight decay; the rates change after each epoch.
    """
    optimizer = torch.optim.SGD(
        [
            {"params": classifier.parameters(), "lr": rate * settings.batch / 256}
            for classifier, rate in zip(classifiers, settings.rates, strict=True)
        ],
        momentum=MOMENTUM,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    for _ in watched(range(settings.epochs), "epochs", settings.epochs):
        for features, labels in batches:
            optimizer.zero_grad()
            # Classifiers share no weights, so each one's gradients are those of its own loss.
            losses = [functional.cross_entropy(classifier(features), labels) for classifier in classifiers]
            torch.stack(losses).sum().backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(scores: Tensor, labels: Tensor) -> LinearAccuracy:
    """Accuracy of class scores [N, K] against labels [N]; of fewer than five classes all are in the top 5."""
    correct = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return LinearAccuracy(correct[:, 0].float().mean().item(), correct.any(dim=1).float().mean().item())


class StoredBatches:
    """Shuffled batches of stored features [versions, N, C]; each epoch draws one version of each image."""

    def __init__(self, features: Tensor, labels: Tensor, batch: int) -> None:
        self.features = features
        self.labels = labels
        self.batch = batch
        self.generator = torch.Generator().manual_seed(SEED)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        versions, images = self.features.shape[:2]
        order = torch.randperm(images, generator=self.generator)
        version = torch.randint(versions, (images,), generator=self.generator)
        for chosen in order.split(self.batch):
            yield self.features[version[chosen], chosen], self.labels[chosen]


class RandomCropBatches:
    """Shuffled batches of features of random crops, new in each epoch and mirrored half the time, as on ImageNet."""

    def __init__(self, features: CropFeatures, part: LabeledFiles, batch: int) -> None:
        self.features = features
        self.part = part
        self.batch = batch
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        order = np.random.default_rng([SEED, self.epoch]).permutation(len(self.part.files)).tolist()
        chunks = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        with ThreadPoolExecutor() as pool:
            pending = pool.map(self.crop, chunks[0])
            for chunk, next_chunk in zip(chunks, [*chunks[1:], []], strict=True):
                crops = torch.stack(list(pending))
                pending = pool.map(self.crop, next_chunk)  # while the ViT runs on these
                features = self.features(crops)
                yield features, torch.tensor([self.part.labels[i] for i in chunk], device=features.device)

    def crop(self, index: int) -> Tensor:
        """This epoch's crop of an image, uint8 [3, side, side]: 8 to 100 % of the area, aspect ratio 3:4 to 4:3."""
        rng = np.random.default_rng([SEED, self.epoch, index])
        (image,) = read_images([self.part.files[index]])
        box = draw_box(rng, image.shape[0], image.shape[1], (0.08, 1.0))
        size = [self.features.side, self.features.side]
        crop: Tensor = resized_crop(torch.from_numpy(image).permute(2, 0, 1), *box, size, antialias=True)
        return crop.flip(-1) if rng.random() < 0.5 else crop
