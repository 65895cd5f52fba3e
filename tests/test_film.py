"""Two global crops from two frames of a film: near in time, of one shot, near-duplicates too, the same on resume."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from bags import encoded, write_topics
from numpy.typing import NDArray
from videos import write_video

from dino_ros.errors import UserError
from dino_train.data.film import Film, Films
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.data.loader import EpochSampler, crop_loader
from dino_train.data.multicrop import MultiCrop
from dino_train.data.selection import SelectedFrames, SelectionParameters
from dino_train.recipes import CropsConfig, CurlConfig, CurlRecipe, DinoRecipe

APART = 0.5
RNG = np.random.default_rng(0)
SCENES = RNG.integers(0, 200, (3, 12, 16))
"""Thumbnails of three places."""
SHOTS = [0] * 12 + [1] * 3 + [0] * 10 + [2] * 1 + [1] * 14
"""The place that each frame shows: there are five shots."""
TIMES = np.cumsum(RNG.choice([20, 50, 130, 400], len(SHOTS))) * 1_000_000
BROKEN = {5, 13, 30}
RECIPE = DinoRecipe(
    crops=CropsConfig(32, 16, local_crops_number=2, color=0.0, seconds_apart=APART), epochs=3, batch_size=4, seed=5
)


class Shown:
    """A recording whose every pixel is the frame's number. Each frame is a little brighter than the one before."""

    name, path, encoding = "shown", Path("shown"), "raw"
    times = TIMES

    def __init__(self) -> None:
        self.cache: Any = SimpleNamespace(load=lambda names: {}, add=lambda arrays: None)
        self.read: list[int] = []
        self.damaged: set[int] = set(BROKEN)
        self.larger: set[int] = set()

    def __len__(self) -> int:
        return len(SHOTS)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        self.read.append(index)
        if index in self.damaged:
            raise UserError(f"frame {index} is damaged")
        return np.full((40, 60 if index in self.larger else 40, 3), index, np.uint8)

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        for number, place in enumerate(SHOTS):
            yield None if number in BROKEN else (SCENES[place] + number).astype(np.uint8)


def candidates(number: int) -> list[int]:
    """Every frame that another may be seen with, found one by one."""
    found = []
    for other in range(len(SHOTS)):
        between = range(min(number, other), max(number, other) + 1)
        same_shot = all(SHOTS[one] == SHOTS[number] for one in between)
        if same_shot and other not in BROKEN and abs(TIMES[other] - TIMES[number]) <= APART * 1e9:
            found.append(other)
    return found


def a_film(recording: Shown) -> Film:
    return Film(recording, np.arange(len(recording), dtype=np.uint32), APART)


def values(views: Any) -> list[list[int]]:
    """The frames that views show."""
    return [[int(image[0, 0, 0]) for image in view] for view in views]


def test_a_frame_is_seen_with_each_one_that_is_near_and_not_across_a_cut() -> None:
    film = a_film(Shown())
    for number in set(range(len(SHOTS))) - BROKEN:
        expected = candidates(number)
        evenly = (np.arange(4 * len(expected)) + 0.5) / (4 * len(expected))
        assert [film.other(number, at) for at in evenly] == np.repeat(expected, 4).tolist()
        assert film.other(number, np.nextafter(1, 0)) == expected[-1]
    assert max(len(candidates(number)) for number in range(len(SHOTS))) > 4


def test_frames_are_read_in_order_of_time() -> None:
    recording = Shown()
    film = a_film(recording)
    for number, at in ((20, 0.0), (20, 0.999)):
        recording.read.clear()
        assert values(film.views(number, at)) == [[number], [film.other(number, at)]]
        assert recording.read == sorted({number, film.other(number, at)})
        assert len(recording.read) == 2, "the case has two frames"


def test_a_frame_whose_neighbor_is_of_no_use_is_seen_with_itself() -> None:
    recording = Shown()
    film = a_film(recording)
    other = film.other(20, 0.0)
    recording.damaged.add(other)
    assert values(film.views(20, 0.0)) == [[20], [20]]
    recording.damaged.remove(other)
    recording.larger.add(other)
    assert values(film.views(20, 0.0)) == [[20], [20]]
    recording.damaged.add(20)
    with pytest.raises(UserError, match="frame 20 is damaged"):
        film.views(20, 0.0)


def test_near_duplicates_are_not_drawn_but_seen() -> None:
    selected = SelectedFrames(Shown(), SelectionParameters(4))
    drawn = set(selected.numbers.tolist())
    films = Films([range(3), selected], APART, 1)  # type: ignore[list-item]
    pairs = [films.views(3 + index, at) for index in range(len(selected)) for at in np.linspace(0, 0.999, 9)]
    assert {int(first[0][0, 0, 0]) for first, _ in pairs} == drawn
    seen = {int(second[0][0, 0, 0]) for _, second in pairs}
    assert seen > drawn
    assert len(seen) > 1.5 * len(drawn)
    assert films.views(1, 0.9) == ([1], [1]), "an image that is of no recording"


def test_a_stack_is_of_successive_frames_of_a_shot() -> None:
    recording = Shown()
    film = Film(recording, np.arange(len(recording), dtype=np.uint32), 0.0, stack=3)
    assert values(film.views(20, 0.7)) == [[18, 19, 20]] * 2, "both views are of one moment"
    assert film.stacked(16) == [15, 15, 16], "the first of its shot stands for those before it"
    assert film.stacked(7) == [4, 6, 7], "5 is broken"
    recording.damaged.add(19)
    assert values(film.views(20, 0.7)) == [[18, 20, 20]] * 2
    apart = Film(Shown(), film.drawn, APART, stack=2)
    other = apart.other(20, 0.0)
    assert other < 18
    assert values(apart.views(20, 0.0)) == [[19, 20], [other - 1, other]]


def test_the_frames_of_a_stack_are_cropped_and_colored_alike() -> None:
    frames = MixedFrames([SelectedFrames(Shown(), SelectionParameters(4))])
    crops = dataclasses.replace(RECIPE.crops, seconds_apart=0.0)
    recipe = CurlRecipe(crops=crops, batch_size=4, curl=CurlConfig(frames=3))
    loader = crop_loader(frames, recipe, EpochSampler(frames, recipe), 0)
    batch = next(iter(loader))
    film = Film(Shown(), frames.sources[0].numbers, 0.0, stack=3)  # type: ignore[attr-defined]
    for index, globals_, locals_ in zip(batch.images.tolist(), *batch.crops, strict=True):
        stack = film.stacked(int(film.drawn[index]))
        assert globals_[:, 0, 0, 0].tolist() == locals_[:, 0, 0, 0].tolist() == stack * 2
    image = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    colored = MultiCrop(dataclasses.replace(crops, color=1.0), stack=3)(image, np.random.default_rng(0))
    single = MultiCrop(dataclasses.replace(crops, color=1.0))(image, np.random.default_rng(0))
    for stacked, one in zip(colored, single, strict=True):
        assert torch.equal(stacked, one.repeat_interleave(3, dim=0))


def test_only_the_second_global_crop_is_from_the_other_frame_and_a_later_start_gives_the_same() -> None:
    frames = MixedFrames([SelectedFrames(Shown(), SelectionParameters(4))])

    def batches(start: int, workers: int) -> list[Any]:
        return list(crop_loader(frames, RECIPE, EpochSampler(frames, RECIPE, start), workers))

    all_batches = batches(0, 0)
    numbers = frames.sources[0].numbers  # type: ignore[attr-defined]
    apart = 0
    for batch in all_batches:
        for index, globals_, locals_ in zip(batch.images.tolist(), *batch.crops, strict=True):
            number = int(numbers[index])
            assert globals_[0].unique().tolist() == locals_.unique().tolist() == [number]
            (other,) = globals_[1].unique().tolist()
            assert other in candidates(number)
            apart += other != number
    assert apart > len(all_batches), "more than one of four"
    for ours, theirs in zip(batches(2, 2), all_batches[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.crops, theirs.crops, strict=True))


def test_without_seconds_nothing_changes() -> None:
    """The random numbers of a run that was started before are those it goes on with."""
    frames = MixedFrames([SelectedFrames(Shown(), SelectionParameters(4))])
    plain = dataclasses.replace(RECIPE, crops=dataclasses.replace(RECIPE.crops, seconds_apart=0.0, color=1.0))
    rng = np.random.default_rng([plain.seed, 0])
    loader = crop_loader(frames, plain, EpochSampler(frames, plain), 0)
    dataset: Any = loader.dataset
    batch = next(iter(loader))
    image = frames[int(batch.images[0])]
    for crops, expected in zip(batch.crops, dataset.crop(image, rng), strict=True):
        assert torch.equal(crops[0], expected)


@pytest.mark.parametrize("kind", ["bag", "video"])
def test_of_bags_and_videos(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pair holds is what the two frames hold that are asked for one by one; a scene that changes is cut."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if kind == "video":
        path = write_video(tmp_path / "v.mp4", range(0, 1500, 50), numbers=[*range(15), *range(112, 127)])
    else:
        large = SCENES.repeat(8, axis=1).repeat(8, axis=2)
        pictures = [(large[shot] + number)[..., None].repeat(3, axis=2) for number, shot in enumerate(SHOTS)]
        path = write_topics(tmp_path / "bag", {"/camera": [encoded("png", one.astype(np.uint8)) for one in pictures]})
    frames = open_frames([path], selection=SelectionParameters(4))
    selected: Any = frames.sources[0]
    film = Film(selected.recording, selected.numbers, 0.3)
    cut = 15 if kind == "video" else 12
    apart = 0
    for index, number in enumerate(selected.numbers.tolist()):
        for at in (0.0, 0.4, 0.999):
            other = film.other(number, at)
            apart += other != number
            assert (number < cut) == (other < cut)
            assert abs(selected.recording.times[number] - selected.recording.times[other]) <= 0.3e9
            for (shown,), one in zip(film.views(index, at), (number, other), strict=True):
                assert np.array_equal(shown, selected.recording[one])
    assert apart >= len(selected)
