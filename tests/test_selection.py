"""Near-duplicates are left out of logs, and nothing else is."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rich")

from bags import Fields, encoded, raw, write_bag, write_topics
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.near_duplicates import THUMBNAIL
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames
from dino_train.data.frames import open_frames
from dino_train.data.selection import SelectedFrames, SelectionParameters, thumbnail_of_message
from dino_train.data.video import VideoFrames

WIDTH, HEIGHT = 320, 240


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def scene() -> NDArray[np.uint8]:
    """Something to look at, with structure at every scale."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(rng.random((size, size, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for size in (4, 16, 64)
    ]
    return np.clip(sum(layers) * 70 + 20, 0, 255).astype(np.uint8)


def noisy(rgb: NDArray[np.uint8], seed: int, deviation: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, deviation, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def select(
    path: Path, frames: list[Fields], threshold: float = SelectionParameters().near_duplicate_threshold
) -> SelectedFrames:
    bag = write_topics(path, {"/camera": frames})
    return SelectedFrames(open_bag_frames(bag)[0][0], SelectionParameters(threshold))


@pytest.mark.parametrize("deviation", [3.0, 10.0])
@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_noise_of_the_sensor_is_no_change(tmp_path: Path, kind: str, deviation: float) -> None:
    images = [noisy(scene(), seed, deviation) for seed in range(20)]
    frames = [encoded("jpg", image) if kind == "jpeg" else raw("rgb8", image) for image in images]
    selected = select(tmp_path / "bag", frames)
    assert selected.numbers.tolist() == [0]
    assert selected.near_duplicates == 19


def test_a_small_object_that_moves_is_a_change(tmp_path: Path) -> None:
    """A fifteenth of the image's height, 40 gray levels from its background, stepping by its own size."""
    side = HEIGHT // 15
    frames = []
    for number in range(10):
        image = scene()
        part = image[100 : 100 + side, 40 + number * side : 40 + (number + 1) * side]
        part[:] = cv2.subtract(part, (40.0, 40.0, 40.0))
        frames.append(encoded("jpg", noisy(image, number, 3)))
    assert len(select(tmp_path / "bag", frames)) == 10


def test_a_slow_drift_adds_up(tmp_path: Path) -> None:
    frames = [encoded("png", np.roll(scene(), round(number / 4), axis=1)) for number in range(40)]
    selected = select(tmp_path / "bag", frames)
    assert 3 <= len(selected) <= 20
    assert np.diff(selected.numbers).max() < 20


def test_a_run_too_short_to_learn_names_what_is_left_out(tmp_path: Path) -> None:
    """Before it starts, with what would help; not where weights are not random, nor for a run that is long enough."""
    pytest.importorskip("torch")
    from dino_train.recipes import BackboneConfig, DinoRecipe
    from dino_train.training.checks import FEW_STEPS, too_short

    bag = write_topics(tmp_path / "bag", {"/camera": [encoded("jpg", noisy(scene(), seed, 3)) for seed in range(20)]})
    frames = open_frames([bag], selection=SelectionParameters())
    said = too_short(DinoRecipe(), frames, 210, 21)
    assert "210 steps" in said
    assert f"--epochs {-(-FEW_STEPS // 21)}," in said
    assert "--near_duplicate_threshold (19 frames" in said
    assert "a --batch_size below 64" in said
    assert "--near_duplicate_threshold" not in too_short(DinoRecipe(), open_frames([bag]), 210, 21)
    assert too_short(DinoRecipe(), frames, FEW_STEPS, 21) == ""
    assert too_short(DinoRecipe(init="weights.pth"), frames, 210, 21) == ""
    assert too_short(DinoRecipe(BackboneConfig(pretrained=True)), frames, 210, 21) == ""


@pytest.mark.parametrize("threshold", [1.0, 5.0, 25.0])
def test_against_a_slow_loop(tmp_path: Path, threshold: float) -> None:
    rng = np.random.default_rng(1)
    offsets = np.abs(rng.normal(0, 6, 60)).cumsum() % 90
    gray = cv2.cvtColor(scene(), cv2.COLOR_RGB2GRAY).astype(float)
    grays = [np.clip(gray + offset, 0, 255).astype(np.uint8) for offset in offsets]
    grays = [cv2.rectangle(gray, (n, n), (n + 30, n + 30), 255, -1) for n, gray in enumerate(grays)]
    selected = select(tmp_path / "bag", [raw("mono8", gray) for gray in grays], threshold)
    cells = [
        np.round(gray.reshape(THUMBNAIL[1], HEIGHT // THUMBNAIL[1], THUMBNAIL[0], WIDTH // THUMBNAIL[0]).mean((1, 3)))
        for gray in grays
    ]
    kept = [0]
    for number in range(1, len(cells)):
        if np.abs(cells[number] - cells[kept[-1]]).max() >= threshold:
            kept.append(number)
    assert selected.numbers.tolist() == kept
    np.testing.assert_array_equal(selected[len(kept) - 1][:, :, 0], grays[kept[-1]])


def test_frames_that_do_not_decode_are_counted_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bag(tmp_path / "bag", frames=6, broken=3)
    with caplog.at_level(logging.INFO):
        frames = open_frames([tmp_path / "bag"], ["/compressed"], selection=SelectionParameters())
    assert frames.sources[0].numbers.tolist() == [0, 1, 2, 4, 5]  # type: ignore[attr-defined]
    assert "kept 5 of 6 frames, dropped 0 near-duplicates" in caplog.text
    assert "skipped 1 that do not decode" in caplog.text


def test_where_most_is_dropped_the_log_says_how_to_keep_more(test_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A drone that stands on the ground: what the line promises is what that threshold keeps."""
    ((frames,), _) = open_bag_frames(test_data / "bags" / "euroc_micro")
    with caplog.at_level("INFO"):
        SelectedFrames(frames, SelectionParameters())
    found = re.search(r"; --near_duplicate_threshold (\d+) would keep (\d+), 0 all$", caplog.messages[-1])
    assert found
    with caplog.at_level("INFO"):
        more = SelectedFrames(frames, SelectionParameters(float(found[1])))
    assert len(more) == int(found[2]) > 95 / 2
    assert "would keep" not in caplog.messages[-1]


def test_another_threshold_needs_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [encoded("jpg", np.roll(scene(), 3 * number, axis=1)) for number in range(20)]
    counts = [len(select(tmp_path / "bag", frames))]
    monkeypatch.setattr(BagFrames, "thumbnails", None)
    source = open_bag_frames(tmp_path / "bag")[0][0]
    counts += [len(SelectedFrames(source, SelectionParameters(threshold))) for threshold in (4.0, 20.0, 255.0)]
    assert counts[0] == counts[1] > counts[2] > counts[3] == 1


def test_examples_of_what_was_dropped(tmp_path: Path) -> None:
    images = [np.roll(scene(), 40 * (number // 5), axis=1) for number in range(20)]
    selected = select(tmp_path / "bag", [raw("rgb8", noisy(image, n, 2)) for n, image in enumerate(images)])
    assert selected.numbers.tolist() == [0, 5, 10, 15]
    examples = selected.dropped(4)
    assert [kept for _, kept, _ in examples] == [0, 5, 10, 15]
    assert all(kept < number < kept + 5 and 0 <= difference < 4 for number, kept, difference in examples)
    assert select(tmp_path / "all", [raw("rgb8", image) for image in images[::5]]).dropped(4) == []


def test_zero_keeps_everything_and_folders_are_left_alone(tmp_path: Path) -> None:
    write_topics(tmp_path / "bag", {"/camera": [raw("rgb8", scene())] * 5})
    (tmp_path / "folder").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "folder" / f"{number}.png"), scene())
    assert len(open_frames([tmp_path / "bag"], selection=SelectionParameters(0))) == 5
    assert len(open_frames([tmp_path / "bag"])) == 5
    assert len(open_frames([tmp_path / "bag", tmp_path / "folder"], selection=SelectionParameters())) == 1 + 3


@pytest.mark.parametrize("near_duplicate_threshold", [-1.0, 256.0, float("nan")])
def test_a_threshold_out_of_range(near_duplicate_threshold: float) -> None:
    with pytest.raises(UserError, match=rf"near_duplicate_threshold is {near_duplicate_threshold}"):
        SelectionParameters(near_duplicate_threshold)


def test_real_recordings(test_data: Path) -> None:
    """A drone that stands on the ground, and hands that never rest."""
    standing = open_frames([test_data / "bags" / "euroc_micro"], selection=SelectionParameters())
    assert 0.03 < len(standing) / 95 < 0.3
    moving = open_frames([test_data / "videos" / "cups.mp4"], selection=SelectionParameters())
    assert len(moving) / 300 > 0.9
    assert isinstance(moving.sources[0].recording, VideoFrames)  # type: ignore[attr-defined]


def test_a_jpeg_that_claims_to_be_huge_is_not_decoded() -> None:
    data = bytearray(encoded("jpg", scene())[1][1].tobytes())
    at = data.index(b"\xff\xc0") + 5  # the sizes follow the frame's marker, length and precision
    assert data[at : at + 4] == HEIGHT.to_bytes(2, "big") + WIDTH.to_bytes(2, "big")
    data[at : at + 4] = (30_000).to_bytes(2, "big") * 2
    assert thumbnail_of_message(SimpleNamespace(format="jpeg", data=bytes(data))) is None
