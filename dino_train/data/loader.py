"""Batches of crops, in a shuffled order.

The order and all random numbers depend on the seed and the step alone, so that a resumed run continues exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkContext
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dino_ros.errors import UserError
from dino_train.data.chunk_order import ChunkOrder, compressed_chunks
from dino_train.data.film import Films
from dino_train.data.frames import BAD_SHARE, Frames, too_many_bad
from dino_train.data.multicrop import Draws, MultiCrop, Views, color, color_batch
from dino_train.machine.workers import WorkerContext
from dino_train.recipes import Recipe

log = logging.getLogger(__name__)

Draw = tuple[int, int]
"""An image's number, and how many images were drawn before it in the whole run."""


class CropBatch(NamedTuple):
    """Crops of B images. Lists have an entry for the global crops, and one for the local crops if there are any."""

    crops: list[Tensor]
    """uint8 [B, n, 3, S, S] each; with stacks of k frames, [B, n * k, 3, S, S]."""
    draws: list[Draws]
    """Colors that `color_batch` still has to apply, tensors [B, n, ...]; empty where crops are finished."""
    images: Tensor
    """Numbers of the images, int64 [B]."""


class WeightedFrames(Frames, Protocol):
    """Several sources, one after the other, with how often each is drawn relative to the others."""

    sources: Sequence[Frames]
    weights: Sequence[float]


class CropDataset(Dataset[CropBatch]):
    """Multi-crops of one image per draw, or of several frames of a film: see `crops.seconds_apart`, `Recipe.stack`.

    A draw's random numbers depend on the seed and its count alone.

    With `finish` False the colors are left to the GPU.
    """

    def __init__(self, frames: WeightedFrames, recipe: Recipe, finish: bool = True) -> None:
        self.frames = frames
        apart, stack = recipe.crops.seconds_apart, recipe.stack
        self.films = Films(frames.sources, apart, stack) if apart or stack > 1 else None
        self.crop = MultiCrop(recipe.crops, stack)
        self.seed = recipe.seed
        self.finish = finish
        self._naming = ForkContext().Lock()
        self.bad = torch.zeros(len(frames), dtype=torch.bool).share_memory_()
        """Whether an image could not be read, [N], by any of the workers."""

    def __getitem__(self, draw: Draw) -> CropBatch:
        number, count = draw
        rng = np.random.default_rng([self.seed, count])
        views = self._views(number, rng.random() if self.films else 0)
        height, width, _ = views[0][0].shape
        draws = self.crop.draw(height, width, rng)
        crops = self.crop.cut(views, draws)
        if self.finish:
            crops = [color(cut, drawn) for cut, drawn in zip(crops, draws, strict=True)]
        return CropBatch(crops, [] if self.finish else draws, torch.tensor(number))

    def _views(self, number: int, at: float) -> Views:
        """What to cut from: the image of that number, and the one that `at` picks for its second crop; see `Film`.

        Where the first cannot be read, a warning names it, once, and the next one takes its place. Raises UserError if
        more than BAD_SHARE of the images cannot be read.
        """
        while True:
            if not self.bad[number]:
                try:
                    if self.films:
                        return self.films.views(number, at)
                    image = self.frames[number]
                    return [image], [image]
                except UserError as error:
                    with self._naming:  # another worker may have tried it at the same time
                        if not self.bad[number]:
                            log.warning("left out: %s", error)
                        self.bad[number] = True
            if self.bad.sum() > BAD_SHARE * len(self.frames):
                raise too_many_bad(self.frames)
            number = (number + 1) % len(self.frames)


class EpochSampler(Sampler[list[Draw]]):
    """Batches of draws from `first_step` on. Each epoch is a new permutation without its incomplete last batch; see
    `ChunkOrder`.

    A source of weight w contributes w times its images to an epoch: each image floor(w) times, and a random subset of
    them once more for the remainder. Process `rank` of `processes` gets its own part of each batch.
    """

    def __init__(
        self, frames: WeightedFrames, recipe: Recipe, first_step: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        self.lengths = [len(source) for source in frames.sources]
        self.shares = [round(n * weight) for n, weight in zip(self.lengths, frames.weights, strict=True)]
        self.order = ChunkOrder(*compressed_chunks(frames.sources), recipe.batch_size)
        self.recipe = recipe
        self.first_step = first_step
        self.rank = rank
        self.processes = processes
        self.steps_per_epoch = sum(self.shares) // recipe.batch_size
        self.steps = round(self.steps_per_epoch * recipe.epochs)

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.recipe.batch_size
        part = size // self.processes
        ours = range(self.rank * part, (self.rank + 1) * part)
        order_of = -1
        for step in range(self.first_step, self.steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_of:
                order, order_of = self._order(epoch), epoch
            yield [(int(order[batch * size + i]), step * size + i) for i in ours]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the images of an epoch in the order they are drawn."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        starts = np.cumsum([0, *self.lengths[:-1]])
        chosen = []
        for start, length, share in zip(starts, self.lengths, self.shares, strict=True):
            whole, rest = divmod(share, length)
            chosen += [np.arange(start, start + length)] * whole + [start + rng.permutation(length)[:rest]]
        return self.order.shuffle(np.concatenate(chosen), rng)


def check_steps(frames: WeightedFrames, sampler: EpochSampler) -> None:
    """Raise UserError if there are fewer images than one batch, or if a run ends before its first step."""
    if not sampler.steps_per_epoch:
        count, least = sum(sampler.shares), sampler.recipe.smallest_batch
        advice = f"give --batch_size {count} or less" if count >= least else f"give at least {least} images"
        raise UserError(f"{frames.name} has {count} images, fewer than one batch: {advice}.")
    if not sampler.steps:
        raise UserError(
            f"epochs is {sampler.recipe.epochs:g}, less than a step where an epoch has {sampler.steps_per_epoch}: "
            f"give --epochs {1 / sampler.steps_per_epoch:.2g} or more."
        )


def crop_loader(
    frames: WeightedFrames, recipe: Recipe, sampler: EpochSampler, workers: int, finish: bool = True
) -> DataLoader[CropBatch]:
    """Load the batches of a sampler, cropped in `workers` processes (0: in this one). See CropBatch and CropDataset.

    Raises UserError as `check_steps` does.
    """
    check_steps(frames, sampler)
    # The workers are the parallelism. Set before they are forked: they would wait for threads that no fork copies.
    cv2.setNumThreads(1)
    return DataLoader(
        CropDataset(frames, recipe, finish),
        batch_sampler=sampler,
        num_workers=workers,
        multiprocessing_context=WorkerContext() if workers else None,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would differ
        pin_memory=not finish,  # what is left to the GPU goes there
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def split(batch: CropBatch, parts: int) -> Iterator[CropBatch]:
    """Split a batch into parts of the same size, by image."""
    size = len(batch.images) // parts
    for start in range(0, len(batch.images), size):
        ours = slice(start, start + size)
        draws = [Draws(*(field[ours] for field in drawn)) for drawn in batch.draws]
        yield CropBatch([crops[ours] for crops in batch.crops], draws, batch.images[ours])


def finish_crops(batch: CropBatch, device: torch.device) -> list[Tensor]:
    """Move crops to the device, and color them there if they are not finished.

    Returns [n * B, 3, S, S], crop by crop, in 0 to 255; one tensor for each entry of `batch.crops`.
    """

    def crop_by_crop(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(0, 1)

    groups = [crop_by_crop(crops.to(device, non_blocking=True)) for crops in batch.crops]
    if batch.draws:
        drawn = [Draws(*(crop_by_crop(field) for field in draws)) for draws in batch.draws]
        groups = [color_batch(crops, draws) for crops, draws in zip(groups, drawn, strict=True)]
    return groups
