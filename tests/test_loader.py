"""The order of images: shuffled, weighted, split among processes and workers, and the same again after a pause."""

import collections
import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_train.data.loader import CropDataset, EpochSampler, crop_loader, finish_crops, split
from dino_train.machine.workers import Worker
from dino_train.recipes import CropsConfig, DinoRecipe

RECIPE = DinoRecipe(crops=CropsConfig(32, 16, local_crops_number=2), epochs=3, batch_size=6, seed=5)


class Numbers:
    """Sources of images whose every pixel is their number."""

    name = "numbers"

    def __init__(self, lengths: tuple[int, ...] = (20,), weights: tuple[float, ...] = (1.0,)) -> None:
        self.lengths = lengths
        self.sources = [range(n) for n in lengths]
        self.weights = list(weights)

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((40, 40, 3), index, np.uint8)


def drawn(sampler: EpochSampler) -> list[int]:
    return [number for batch in sampler for number, _ in batch]


def test_each_epoch_draws_every_image_at_most_once_in_a_new_order() -> None:
    sampler = EpochSampler(Numbers(), RECIPE)
    numbers = drawn(sampler)
    epochs = [numbers[i : i + 18] for i in (0, 18, 36)]
    assert len(sampler) == 9
    assert len(numbers) == 54
    assert all(len(set(epoch)) == 18 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    counts = [count for batch in EpochSampler(Numbers(), RECIPE) for _, count in batch]
    assert counts == list(range(54)), "no two draws share their random numbers"


def test_weights_are_how_often_a_source_is_drawn() -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=1, epochs=8)
    frames = Numbers((10, 6, 8), (1.0, 2.5, 0.25))
    sampler = EpochSampler(frames, recipe)
    assert sampler.steps_per_epoch == 10 + 15 + 2
    counts = collections.Counter(drawn(sampler))
    assert {counts[n] for n in range(10)} == {8}, "weight 1: once an epoch"
    assert sum(counts[n] for n in range(10, 16)) == 6 * 2.5 * 8
    assert all(2 * 8 <= counts[n] <= 3 * 8 for n in range(10, 16)), "each two or three times an epoch"
    assert sum(counts[n] for n in range(16, 24)) == 8 * 0.25 * 8


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch(processes: int) -> None:
    alone = list(EpochSampler(Numbers(), RECIPE))
    parts = [list(EpochSampler(Numbers(), RECIPE, 0, rank, processes)) for rank in range(processes)]
    for step, batch in enumerate(alone):
        assert [draw for part in parts for draw in part[step]] == batch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first_step", [1, 3, 7])
def test_a_loader_that_starts_later_gives_the_same_batches(first_step: int, workers: int) -> None:
    def batches(start: int, workers: int) -> list[list[torch.Tensor]]:
        frames = Numbers()
        loader = crop_loader(frames, RECIPE, EpochSampler(frames, RECIPE, start), workers)
        return [[*batch.crops, batch.images] for batch in loader]

    rest = batches(first_step, workers)
    assert len(rest) == 9 - first_step
    for ours, theirs in zip(rest, batches(0, 0)[first_step:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_crops_of_a_batch_stand_crop_by_crop_and_split_by_image() -> None:
    frames = Numbers()
    recipe = dataclasses.replace(RECIPE, crops=dataclasses.replace(RECIPE.crops, color=0.0))
    batch = next(iter(crop_loader(frames, recipe, EpochSampler(frames, recipe), 0)))
    numbers = batch.images.tolist()
    for group, crops in zip(finish_crops(batch, torch.device("cpu")), (2, 2), strict=True):
        assert group[:, 0, 0, 0].tolist() == numbers * crops
    parts = [part.images.tolist() for part in split(batch, 3)]
    assert parts == [numbers[:2], numbers[2:4], numbers[4:]]


def test_crops_left_to_the_gpu_end_up_alike() -> None:
    """The colors that a GPU would apply to the whole batch, applied here, are those of the workers."""
    frames = Numbers()
    finished, raw = (
        next(iter(crop_loader(frames, RECIPE, EpochSampler(frames, RECIPE), 0, finish=finish)))
        for finish in (True, False)
    )
    assert not finished.draws
    assert raw.draws
    cpu = torch.device("cpu")
    for expected, got in zip(finish_crops(finished, cpu), finish_crops(raw, cpu), strict=True):
        assert (expected.float() - got).abs().mean() < 1.5


def test_an_image_that_does_not_decode_is_replaced_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> np.ndarray:
            if index == 7:
                raise UserError("image 7 does not decode")
            return super().__getitem__(index)

    dataset = CropDataset(Broken(), RECIPE)
    assert all(torch.equal(a, b) for a, b in zip(dataset[7, 0].crops, dataset[8, 0].crops, strict=True))
    assert "image 7 does not decode" in caplog.text


def test_fewer_images_than_a_batch_are_refused() -> None:
    frames = Numbers((4,))
    with pytest.raises(UserError, match=r"numbers has 4 images.*batch_size"):
        crop_loader(frames, RECIPE, EpochSampler(frames, RECIPE), 0)


class Engine:
    """An object whose destructor must not run in another process; as a cycle it is freed by the collector only."""

    def __init__(self, log: Path) -> None:
        self.log, self.itself = log, self

    def __del__(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")


class CollectingNumbers(Numbers):
    """Collects garbage at every image."""

    def __getitem__(self, index: int) -> np.ndarray:
        gc.collect()
        return super().__getitem__(index)


def test_a_worker_does_not_collect_what_it_inherited(tmp_path: Path) -> None:
    log = tmp_path / "ended"
    gc.disable()
    try:
        Engine(log)
        frames = CollectingNumbers()
        for _ in crop_loader(frames, RECIPE, EpochSampler(frames, RECIPE), workers=1):
            pass
    finally:
        gc.enable()
    gc.collect()
    assert log.read_text().split() == [str(os.getpid())]


def test_a_worker_that_collects_at_once_leaves_it_alone_too(tmp_path: Path) -> None:
    log = tmp_path / "ended"
    gc.disable()
    try:
        Engine(log)
        worker = Worker(target=gc.collect)
        worker.start()
        worker.join()
    finally:
        gc.enable()
    assert not log.exists()
    gc.collect()  # in this process nothing has changed
    assert log.read_text().split() == [str(os.getpid())]
