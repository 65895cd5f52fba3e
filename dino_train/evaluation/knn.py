"""Weighted k-nearest-neighbour classification of frozen embeddings (Caron et al. 2021, section 3.3; Wu et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dino_ros.errors import UserError

CHUNK = 1024
"""Test pictures compared at a time, to bound memory."""


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test pictures, 0 to 1, whose label wins the vote of the k nearest training pictures.

    `train` [N, C] and `test` [M, C] are embeddings (normalised here), labels are int64 [N] and [M] from 0. Each of the
    k neighbours of highest cosine similarity s votes with weight exp(s / temperature); k is at most N. Raises
    UserError when either side is empty.
    """
    if not len(train) or not len(test):
        raise UserError("k-NN needs at least one training and one test picture.")
    train = functional.normalize(train.float(), dim=-1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    correct = 0
    for chunk, labels in zip(test.split(CHUNK), test_labels.split(CHUNK), strict=True):
        similarity = functional.normalize(chunk.float(), dim=-1) @ train.T
        nearest, indices = similarity.topk(min(k, len(train)), dim=-1)
        votes = torch.zeros(len(chunk), classes, device=chunk.device)
        votes.scatter_add_(1, train_labels[indices], (nearest / temperature).exp())
        correct += int((votes.argmax(dim=-1) == labels).sum())
    return correct / len(test)
