"""Linear classification of frozen features (Caron et al. 2021, section 3.2; facebookresearch/dino, eval_linear.py).

The best learning rate depends on the features, so one classifier is trained for each of several rates, all on the same
batches, as DINOv2 does (Oquab et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import resized_crop

from dino_train.data.multicrop import draw_box
from dino_train.evaluation.classification.class_folder import ClassFolder, LabeledFiles
from dino_train.evaluation.classification.frozen_features import CropFeatures, FrozenFeatures, WholeFeatures
from dino_train.evaluation.encoders import Encoder, TorchEncoder, read_images

SEED = 0
"""Of the classifiers' first weights, of the order of the images and of their crops."""
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
MOMENTUM = 0.9

Batches = Iterable[tuple[Tensor, Tensor]]
"""Features [B, C] float32 and labels [B] int64; gone through once for each epoch."""


@dataclass(frozen=True)
class LinearSettings:
    """How the classifiers are trained, and on what."""

    epochs: int = 100
    batch: int = 128
    rates: Sequence[float] = RATES
    """Learning rates at the start, for a batch of 256: they are scaled by the batch and fall to 0 along a cosine."""
    augmentation: Literal["crops", "flips"] = "crops"
    """Of the training images: a new random crop each epoch, or the center crop and its mirror image, each seen by
    the encoder once."""
    blocks: int | None = None
    """See CropFeatures."""
    patches: bool | None = None
    """See CropFeatures."""


@dataclass(frozen=True)
class LinearAccuracy:
    """Shares of test images, 0 to 1, whose class is the likeliest, or among the five likeliest."""

    top1: float
    top5: float


@dataclass(frozen=True)
class LinearScores:
    """Accuracies by learning rate, and what they are accuracies of."""

    features: str
    trained_on: str
    accuracies: dict[float, LinearAccuracy]

    @property
    def best(self) -> float:
        """The learning rate of the highest top-1, which the test images chose."""
        return max(self.accuracies, key=lambda rate: self.accuracies[rate].top1)


def linear_of(encoder: Encoder, folder: ClassFolder, settings: LinearSettings) -> LinearScores:
    """Train classifiers on `train`, score them on `val`.

    The paper's features and crops need a ViT in torch whose size is square. Anything else shows its embedding of whole
    images, as a robot runs it, and is trained on them and on their mirror images. Raises UserError for a file that is
    no image, and for more blocks than a ViT has.
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
    heads = train_heads(batches, new_heads(test, len(folder.classes), len(settings.rates)), settings)
    truth = torch.tensor(folder.val.labels, device=test.device)
    found = [accuracy(head(test), truth) for head in heads]
    return LinearScores(str(features), trained_on, dict(zip(settings.rates, found, strict=True)))


def new_heads(features: Tensor, classes: int, count: int) -> list[nn.Linear]:
    """Linear classifiers of features like these [N, C], all with the same weights, as the authors draw them."""
    heads = []
    for _ in range(count):
        head = nn.Linear(features.shape[1], classes)
        nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(SEED))
        nn.init.zeros_(head.bias)
        heads.append(head.to(features.device))
    return heads


def train_heads(batches: Batches, heads: list[nn.Linear], settings: LinearSettings) -> list[nn.Linear]:
    """Train one classifier for each of the settings' learning rates, in place, and return them.

    SGD with momentum, without weight decay; a rate changes after each epoch.
    """
    optimizer = torch.optim.SGD(
        [
            {"params": head.parameters(), "lr": rate * settings.batch / 256}
            for head, rate in zip(heads, settings.rates, strict=True)
        ],
        momentum=MOMENTUM,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    for _ in track(range(settings.epochs), "epochs", console=Console(stderr=True), transient=True):
        for features, labels in batches:
            optimizer.zero_grad()
            # The sum's gradients are each classifier's own.
            torch.stack([functional.cross_entropy(head(features), labels) for head in heads]).sum().backward()
            optimizer.step()
        schedule.step()
    return heads


@torch.no_grad()
def accuracy(scores: Tensor, labels: Tensor) -> LinearAccuracy:
    """Accuracy of classes' scores [N, K] against labels [N]; of fewer than five classes all are among the likeliest."""
    likeliest = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return LinearAccuracy(likeliest[:, 0].float().mean().item(), likeliest.any(dim=1).float().mean().item())


class StoredBatches:
    """Shuffled batches of stored features [versions, N, C], an image's version drawn anew each time."""

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
    """Shuffled batches of features of random crops, cut anew each time and mirrored half the time, as on ImageNet."""

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
            coming = pool.map(self.crop, chunks[0])
            for chunk, following in zip(chunks, [*chunks[1:], []], strict=True):
                crops = torch.stack(list(coming))
                coming = pool.map(self.crop, following)  # while the encoder is at these
                features = self.features(crops)
                yield features, torch.tensor([self.part.labels[i] for i in chunk], device=features.device)

    def crop(self, index: int) -> Tensor:
        """This epoch's crop of an image, uint8 [3, side, side]: 8 to 100 % of its area, 3:4 to 4:3 in shape."""
        rng = np.random.default_rng([SEED, self.epoch, index])
        (image,) = read_images([self.part.files[index]])
        box = draw_box(rng, image.shape[0], image.shape[1], (0.08, 1.0))
        size = [self.features.side, self.features.side]
        crop: Tensor = resized_crop(torch.from_numpy(image).permute(2, 0, 1), *box, size, antialias=True)
        return crop.flip(-1) if rng.random() < 0.5 else crop
