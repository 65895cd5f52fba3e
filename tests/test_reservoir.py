"""What is kept of what a camera sees: bounded, without near-duplicates, diverse, and whole after a kill."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.learning import reservoir as module
from dino_ros.learning.reservoir import HELD_BACK, TRAINED_ON, Reservoir

PLENTY = 10**9


def image(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC)


def embed(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return rgb[::16, ::16].astype(np.float32).ravel() - 128


def fill(reservoir: Reservoir, seeds: range) -> int:
    return sum(reservoir.offer(image(seed), embed) for seed in seeds)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_near_duplicates_are_left_out_also_after_a_restart(tmp_path: Path) -> None:
    reservoir = Reservoir(tmp_path, PLENTY)
    rng = np.random.default_rng(0)
    noisy = (image(0) + rng.normal(0, 2, image(0).shape)).clip(0, 255).astype(np.uint8)
    assert [reservoir.offer(rgb, embed) for rgb in (image(0), noisy, image(1))] == [True, False, True]
    reservoir.close()
    again = Reservoir(tmp_path, PLENTY)
    assert [again.offer(rgb, embed) for rgb in (image(0), image(1), image(2))] == [False, False, True]
    assert again.kept == 3
    kept = cv2.imread(str(tmp_path / "images" / "00000003.jpg"))[:, :, ::-1]
    assert np.abs(kept.astype(int) - image(2)).mean() < 8  # a JPEG of it, in the same order of colors


def test_a_loop_of_ten_frames_gives_ten_images(tmp_path: Path) -> None:
    reservoir = Reservoir(tmp_path, PLENTY)
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(4):
        for seed in range(10):
            seen = (image(seed) + rng.normal(0, 2, image(seed).shape)).clip(0, 255).astype(np.uint8)
            kept += reservoir.offer(seen, embed)
    assert kept == reservoir.kept == len(names(tmp_path / "images")) == 10


def test_the_budget_holds_and_the_most_alike_go_first(tmp_path: Path) -> None:
    """Against the same rule on all pairs, computed anew for each image."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(25, 5)).astype(np.float32)
    size = len(module.jpeg(image(0)))
    budget = 12 * size
    reservoir = Reservoir(tmp_path, budget)
    kept: dict[int, tuple[int, NDArray[np.float32]]] = {}
    for number, direction in enumerate(directions, start=1):
        rgb = image(number)
        assert reservoir.offer(rgb, lambda rgb, direction=direction: direction)  # type: ignore[misc]
        kept[number] = len(module.jpeg(rgb)), direction / np.linalg.norm(direction)
        while sum(one[0] for one in kept.values()) > budget:
            pairs = itertools.combinations(sorted(kept), 2)
            del kept[max(pairs, key=lambda pair: kept[pair[0]][1] @ kept[pair[1]][1])[0]]
    assert names(tmp_path / "images") == [f"{number:08d}.jpg" for number in sorted(kept)]
    assert reservoir.size == sum(file.stat().st_size for file in (tmp_path / "images").iterdir()) <= budget
    assert reservoir.kept == 25


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    reservoir = Reservoir(tmp_path, PLENTY)
    reservoir.offer(cv2.resize(image(0), (1920, 1080)), embed)
    assert cv2.imread(str(tmp_path / "images" / "00000001.jpg")).shape == (360, 640, 3)


def test_a_snapshot_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRETCH", 2)
    reservoir = Reservoir(tmp_path / "reservoir", PLENTY)
    fill(reservoir, range(12))
    reservoir.snapshot(tmp_path / "now")
    parts = {part: names(tmp_path / "now" / part) for part in (TRAINED_ON, HELD_BACK)}
    assert {part: len(files) for part, files in parts.items()} == {TRAINED_ON: 10, HELD_BACK: 2}
    assert parts[HELD_BACK] == ["00000008.jpg", "00000009.jpg"]
    assert [reservoir.count(part) for part in parts] == [10, 2]
    reservoir.budget = 1
    reservoir.offer(image(100), embed)
    assert len(names(tmp_path / "reservoir" / "images")) == 1
    assert {part: names(tmp_path / "now" / part) for part in parts} == parts
    assert all(cv2.imread(str(tmp_path / "now" / part / name)) is not None for part in parts for name in parts[part])


class Killed(BaseException):
    """What a kill looks like from within: nothing more is done."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A list to put the number of changes of files and index into, after which the process is killed."""
    left: list[int] = []

    def dying(work: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            if left:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return work(*arguments, **options)  # type: ignore[operator]

        return call

    monkeypatch.setattr(module, "write_whole", dying(module.write_whole))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    monkeypatch.setattr(Reservoir, "_forget", dying(Reservoir._forget))
    return left


@pytest.mark.parametrize("steps", range(5))
def test_a_kill_loses_no_image_that_was_kept(tmp_path: Path, killed_after: list[int], steps: int) -> None:
    reservoir = Reservoir(tmp_path, PLENTY)
    fill(reservoir, range(5))
    before = reservoir.size
    reservoir.budget = before
    killed_after.append(steps)
    with contextlib.suppress(Killed):
        fill(reservoir, range(5, 6))
    killed_after.clear()
    reservoir.close()
    again = Reservoir(tmp_path, PLENTY)
    numbers = {int(name.removesuffix(".jpg")) for name in names(tmp_path / "images")}
    assert numbers == {*again._numbers}, "files and index agree"
    lost = {1, 2, 3, 4, 5} - numbers
    assert not lost or (len(lost) == 1 and 6 in numbers), "an image goes only where another came"
    assert all(cv2.imread(str(file)) is not None for file in (tmp_path / "images").iterdir())
    assert fill(again, range(6, 8)) == 2


def test_files_that_somebody_removed_are_forgotten(tmp_path: Path) -> None:
    reservoir = Reservoir(tmp_path, PLENTY)
    fill(reservoir, range(3))
    reservoir.close()
    (tmp_path / "images" / "00000002.jpg").unlink()
    assert Reservoir(tmp_path, PLENTY)._numbers == [1, 3]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        Reservoir(tmp_path / "file", PLENTY)
    first = Reservoir(tmp_path / "mine", PLENTY)
    with pytest.raises(UserError, match="used by another learner"):
        Reservoir(tmp_path / "mine", PLENTY)
    first.close()
    Reservoir(tmp_path / "mine", PLENTY)
