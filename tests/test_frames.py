"""Random access to every kind of data, in several processes at once."""

import multiprocessing
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import write_bag

pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_train.data.frames import open_frames
from dino_train.data.images import FolderFrames


def write_image(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 9, 3), level, np.uint8))
    return path


def write_video(path: Path, levels: range) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for level in levels:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_frames_at_random(tmp_path: Path, storage: str) -> None:
    images = write_bag(tmp_path / "bag", storage, frames=6)
    frames = open_frames([tmp_path / "bag"], ["/compressed"])
    assert len(frames) == 6
    for number in (5, 0, 3, 3, 1):
        np.testing.assert_array_equal(frames[number], images[number])
    assert len(open_frames([tmp_path / "bag"])) == 12, "every image topic by default"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_workers_open_for_themselves(tmp_path: Path, storage: str) -> None:
    write_bag(tmp_path / "bag", storage, frames=6)
    write_video(tmp_path / "v.mp4", range(0, 200, 20))
    frames = open_frames([tmp_path / "bag", tmp_path / "v.mp4"], ["/raw"])
    here = [frames[number].mean() for number in range(len(frames))]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            there = pool.starmap(mean_of, [(frames, number) for number in reversed(range(len(frames)))])
        np.testing.assert_allclose(there[::-1], here)


def mean_of(frames: object, number: int) -> float:
    return float(frames[number].mean())  # type: ignore[index]


def test_sources_mix_in_order(tmp_path: Path) -> None:
    write_image(tmp_path / "folder" / "b.png", 20)
    write_image(tmp_path / "folder" / "a" / "z.png", 10)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for level in (30, 40):
            archive.add(write_image(tmp_path / "x" / f"{level}.png", level), f"{level}.png")
    write_video(tmp_path / "v.mp4", range(50, 80, 10))
    frames = open_frames([tmp_path / "folder", tmp_path / "shard.tar", tmp_path / "v.mp4"])
    levels = [frames[number].mean() for number in range(len(frames))]
    np.testing.assert_allclose(levels, [10, 20, 30, 40, 50, 60, 70], atol=4)
    assert frames[6].mean() == levels[6], "the same frame again, by seeking back"


def test_what_cannot_be_read_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    (tmp_path / "bad.mp4").write_text("")
    write_image(tmp_path / "p" / "a.png", 3)
    for paths, topics, named in (
        ([], [], "No data"),
        (["missing"], [], "missing does not exist"),
        (["empty"], [], "empty holds no images"),
        (["notes.txt"], [], "notes.txt"),
        (["bad.tar"], [], "bad.tar"),
        (["bad.mp4"], [], "bad.mp4"),
        (["p"], ["/camera"], "/camera"),
    ):
        with pytest.raises(UserError, match=named):
            open_frames([tmp_path / path for path in paths], topics)


def test_weights_by_path_name_and_topic(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag")
    write_image(tmp_path / "folder" / "a.png", 3)
    write_video(tmp_path / "folder" / "v.mp4", range(3))
    paths = [tmp_path / "bag", tmp_path / "folder"]
    assert open_frames(paths).weights == [1, 1, 1, 1]
    weights = {"bag": 2.0, "/raw": 3.0, str(tmp_path / "folder"): 0.5, "v.mp4": 4.0}
    frames = open_frames(paths, weights=weights)
    named = dict(zip((source.name for source in frames.sources), frames.weights, strict=True))
    assert named == {"bag /compressed": 2, "bag /raw": 6, "folder": 0.5, "v.mp4": 2}
    with pytest.raises(UserError, match=r"/front .*: use one of /compressed, /raw, .*bag, folder"):
        open_frames(paths, weights={"/front": 2.0})
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"weight {weight} of bag"):
            open_frames(paths, weights={"bag": weight})


def test_a_million_images_are_not_a_million_objects(tmp_path: Path) -> None:
    """Python objects would be copied in every forked worker, since counting references writes to them."""
    names = [f"n{number % 1000:08}/n{number % 1000:08}_{number}.JPEG" for number in range(100_000)]
    frames = FolderFrames("images", tmp_path, names)
    assert len(pickle.dumps(frames)) < 50 * len(names)
    assert [frames.files[number] for number in (0, 99_999, 1234)] == [names[0], names[99_999], names[1234]]


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for number in range(5):
            noise = np.random.default_rng(number).integers(0, 256, (60, 60, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f"{number}.png"), noise)
            archive.add(tmp_path / f"{number}.png", f"{number}.png")
    data = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.tar is not a complete, uncompressed tar"):
        open_frames([tmp_path / "cut.tar"])


def test_real_shard_and_log(test_data: Path) -> None:
    frames = open_frames([test_data / "pretrain" / "shard-000.tar", test_data / "bags" / "euroc_micro"])
    assert len(frames) > 2000
    assert frames[len(frames) - 1].shape == (480, 752, 3)
    assert frames[17].shape[2] == 3
