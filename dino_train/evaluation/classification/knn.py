"""Weighted k-nearest-neighbor classification of frozen embeddings (Caron et al. 2021, section 3.3; Wu et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from timm.models import VisionTransformer
from torch import Tensor
from torch.nn import functional

from dino_ros.errors import UserError
from dino_train.evaluation.classification.class_folder import ClassFolder, embed_files
from dino_train.evaluation.encoders import Encoder, TorchEncoder, embed_images

CHUNK = 1024
"""Test images compared at a time, to limit memory."""
NEIGHBORS = (10, 20, 100, 200)
"""The k that the paper tries; 20 is the best throughout."""


def knn_accuracies(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    neighbors: Sequence[int],
    temperature: float = 0.07,
) -> dict[int, float]:
    """Share of test images, 0 to 1, whose label wins the vote of the k nearest training images, for several k.

    `train` [N, C] and `test` [M, C] are embeddings (normalized here), labels are int64 [N] and [M] from 0. The k
    neighbors of highest cosine similarity s vote with weight exp(s / temperature). Similarities are computed once for
    all k; where k is above N, all N vote. Raises UserError when either side is empty.
    """
    if not len(train) or not len(test):
        raise UserError("k-NN needs at least one training and one test image.")
    train = functional.normalize(train.float(), dim=-1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    correct = dict.fromkeys(neighbors, 0)
    for chunk, labels in zip(test.split(CHUNK), test_labels.split(CHUNK), strict=True):
        similarity = functional.normalize(chunk.float(), dim=-1) @ train.T
        nearest, indices = similarity.topk(min(max(neighbors), len(train)), dim=-1)  # the most similar first
        weights, voted = (nearest / temperature).exp(), train_labels[indices]
        for k in neighbors:
            votes = torch.zeros(len(chunk), classes, device=chunk.device)
            votes.scatter_add_(1, voted[:, :k], weights[:, :k])
            correct[k] += int((votes.argmax(dim=-1) == labels).sum())
    return {k: count / len(test) for k, count in correct.items()}


def knn_on_folder(vit: VisionTransformer, folder: ClassFolder, size: int) -> dict[int, float]:
    """k-NN accuracies, 0 to 1, by k, of embeddings of a folder's center crops of `size` pixels.

    The k are those of `neighbors_for`. Raises UserError for a file that is no image.
    """
    return _accuracies(folder, lambda files: embed_files(vit, files, size))


def knn_scores(encoder: Encoder, folder: ClassFolder) -> dict[int, float]:
    """k-NN accuracies, 0 to 1, by k, of any encoder on a folder.

    A ViT in torch of a square size sees center crops, as in `knn_on_folder`; any other encoder sees whole images, as on
    a robot. Raises UserError for a file that is no image.
    """
    if isinstance(encoder, TorchEncoder) and encoder.crop_side:
        return knn_on_folder(encoder.vit, folder, encoder.crop_side)
    return _accuracies(folder, lambda files: torch.from_numpy(embed_images(encoder, files)))


def _accuracies(folder: ClassFolder, embed: Callable[[Sequence[Path]], Tensor]) -> dict[int, float]:
    train, val = (embed(part.files) for part in (folder.train, folder.val))
    train_labels, val_labels = (torch.tensor(part.labels, device=train.device) for part in (folder.train, folder.val))
    return knn_accuracies(train, train_labels, val, val_labels, neighbors_for(len(train)))


def neighbors_for(images: int) -> list[int]:
    """Those k of NEIGHBORS for which there are enough training images, or all images where there are fewer."""
    return [k for k in NEIGHBORS if k <= images] or [images]
