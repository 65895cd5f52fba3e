"""Batches of crops in a shuffled order that depends on the seed and the step alone, so that a run can go on exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dino_ros.errors import UserError
from dino_train.config import Recipe
from dino_train.data.frames import Frames
from dino_train.data.multicrop import MultiCrop

log = logging.getLogger(__name__)

Draw = tuple[int, int]
"""A picture's number, and the count of pictures drawn before it in the whole run."""


class CropDataset(Dataset[list[Tensor]]):
    """Multi-crops of one picture per draw; a draw's random numbers depend on the seed and its count alone."""

    def __init__(self, frames: Frames, recipe: Recipe) -> None:
        self.frames = frames
        self.crop = MultiCrop(recipe.crops)
        self.seed = recipe.seed

    def __getitem__(self, draw: Draw) -> list[Tensor]:
        number, count = draw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed << 40) + count)
            return self.crop(self._picture(number))

    def _picture(self, number: int, tries: int = 10) -> Tensor:
        """Picture of that number; one that does not decode is named in a warning and the next one takes its place."""
        try:
            return torch.from_numpy(self.frames[number]).permute(2, 0, 1)
        except UserError as error:
            if tries == 1:
                raise
            log.warning("left out: %s", error)
            return self._picture((number + 1) % len(self.frames), tries - 1)


class EpochSampler(Sampler[list[Draw]]):
    """Draws batch by batch from `first_step` on: each epoch a new permutation, its incomplete last batch left out."""

    def __init__(self, count: int, recipe: Recipe, first_step: int) -> None:
        self.count = count
        self.recipe = recipe
        self.first_step = first_step
        self.steps_per_epoch = count // recipe.batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch * self.recipe.epochs - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.recipe.batch_size
        first_epoch, first_batch = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            generator = torch.Generator().manual_seed((self.recipe.seed << 32) + epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
            for batch in range(first_batch if epoch == first_epoch else 0, self.steps_per_epoch):
                drawn = (epoch * self.steps_per_epoch + batch) * size
                yield [(order[batch * size + i], drawn + i) for i in range(size)]


def crop_loader(frames: Frames, recipe: Recipe, first_step: int, workers: int, pin: bool) -> DataLoader[list[Tensor]]:
    """Batches from `first_step` on: lists of uint8 crops, two [B, 3, G, G], then `local_crops` of [B, 3, L, L].

    Raises UserError when there are fewer pictures than one batch.
    """
    if len(frames) < recipe.batch_size:
        raise UserError(
            f"{frames.name} has {len(frames)} pictures, fewer than one batch: set batch_size to {len(frames)} or less."
        )
    return DataLoader(
        CropDataset(frames, recipe),
        batch_sampler=EpochSampler(len(frames), recipe, first_step),
        num_workers=workers,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would differ
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
