"""Frames of recordings: the cache of what a student sees, the most diverse ones, those like a crop, the novel ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from bags import write_bag
from numpy.typing import NDArray
from students import changed, expected, write_student

import dino_ros.cli
from dino_ros.errors import UserError
from dino_ros.images.sources import open_source
from dino_ros.mining import novelty as novelty_module
from dino_ros.mining import vectors as vectors_module
from dino_ros.mining.diverse import k_centers, write_diverse
from dino_ros.mining.novelty import Calibration, Known, learn
from dino_ros.mining.search import look_in_box, looks_of_crop, search
from dino_ros.mining.vectors import Vectors, vectors_of
from dino_ros.mining.whitening import Whitening
from dino_ros.perception.perceiver import Perceiver

FRAMES = 12


def quiet(sentence: str) -> None:
    pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, in files of five frames."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vectors_module, "PART", 5)
    return tmp_path / "cache" / "dino_ros" / "vectors"


@pytest.fixture
def perceiver(student: Path) -> Perceiver:
    return Perceiver.load(student, "onnxruntime")


def scenes(folder: Path, red: tuple[int, ...] = ()) -> Path:
    """A folder of images [32, 48, 3] of gray noise, some with a red patch at the fourth column of the second row."""
    folder.mkdir()
    rng = np.random.default_rng(len(red))
    for number in range(FRAMES):
        image = np.repeat(rng.integers(80, 120, (32, 48, 1), dtype=np.uint8), 3, axis=2)
        if number in red:
            image[8:16, 24:32] = 20, 20, 220
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def seen(perceiver: Perceiver, *paths: Path) -> list[Vectors]:
    return vectors_of(perceiver, paths, None, 0, quiet)


def unit64(rows: NDArray[Any]) -> NDArray[np.float64]:
    doubled: NDArray[np.float64] = rows.astype(np.float64)
    return doubled / np.linalg.norm(doubled, axis=-1, keepdims=True)


def test_vectors_are_what_the_student_sees(perceiver: Perceiver, tmp_path: Path) -> None:
    images = write_bag(tmp_path / "bag", frames=7, broken=3)
    (found,) = vectors_of(perceiver, [tmp_path / "bag"], "/compressed", 0, quiet)
    readable = [0, 1, 2, 4, 5, 6]
    inputs = np.stack([perceiver.prepare_image(images[number]).input for number in readable])
    outputs = expected(inputs)
    assert [frame.number for frame in found.frames] == readable
    assert [frame.seconds for frame in found.frames] == pytest.approx([number / 10 for number in readable])
    assert {(frame.height, frame.width) for frame in found.frames} == {(48, 64)}
    np.testing.assert_allclose(found.embeddings, unit64(outputs["embedding"]), atol=1e-5)
    np.testing.assert_allclose(list(found.tokens()), unit64(outputs["features"]), atol=1e-3)
    shown = found.thumbnail(5).astype(int)  # the last one, in the second file
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown.mean((0, 1)) - images[6].mean((0, 1))).max() < 8


def test_what_was_interrupted_goes_on_and_what_is_complete_is_not_computed_again(
    perceiver: Perceiver, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scenes(tmp_path / "images", red=(2, 9))
    looked: list[int] = []
    infer = perceiver.infer

    def counting(inputs: Any, outputs: Any) -> Any:
        looked.append(len(inputs))
        if len(looked) == killed_at:
            raise KeyboardInterrupt
        return infer(inputs, outputs)

    monkeypatch.setattr(perceiver, "infer", counting)
    extra = 2  # frames that the estimate of the time takes
    killed_at = extra + 9
    with pytest.raises(KeyboardInterrupt):
        seen(perceiver, folder)
    killed_at, looked = -1, []
    (whole,) = seen(perceiver, folder)
    assert len(looked) == extra + FRAMES - 5  # those of the first file were kept
    tokens, looked = list(whole.tokens()), []
    (again,) = seen(perceiver, folder)
    assert not looked
    damaged = sorted(cache.glob("*/part_*.npz"))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    (repaired,) = seen(perceiver, folder)
    assert len(looked) == extra + FRAMES - 5
    for other in (again, repaired):
        assert np.array_equal(list(other.tokens()), tokens)
        assert other.frames == whole.frames


@pytest.mark.parametrize("what", ["recording", "student"])
def test_vectors_of_something_else_are_made_again(perceiver: Perceiver, tmp_path: Path, cache: Path, what: str) -> None:
    folder = scenes(tmp_path / "images")
    (before,) = seen(perceiver, folder)
    first = before.embeddings.copy()
    if what == "recording":
        cv2.imwrite(str(folder / "0.png"), np.full((32, 48, 3), (0, 0, 255), np.uint8))
        os.utime(folder / "0.png", ns=(1, 1))
    else:
        write_student(tmp_path / "other.onnx", changed(license="another"))
        perceiver = Perceiver.load(tmp_path / "other.onnx", "onnxruntime")
    (after,) = seen(perceiver, folder)
    assert (not np.array_equal(after.embeddings, first)) == (what == "recording")
    assert len(list(cache.iterdir())) == (1 if what == "recording" else 2)


def test_a_recording_without_a_readable_frame_is_refused(perceiver: Perceiver, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"0\.png"):
        seen(perceiver, tmp_path / "images")


def test_k_centers_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    rows[40:] = rows[:20]  # which repeat others
    found = k_centers(rows, 15)
    exact = rows.astype(np.float64)
    distances = np.linalg.norm(exact[:, None] - exact, axis=2)
    chosen = [int(np.argmin(np.linalg.norm(exact - exact.mean(0), axis=1)))]
    while len(chosen) < 15:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    assert found.indices.tolist() == chosen
    assert found.radius == pytest.approx(distances[:, chosen].min(1).max(), rel=1e-5)
    assert found.distances[-1] == pytest.approx(distances[chosen[-1], chosen[:-1]].min(), rel=1e-5)
    assert len(k_centers(rows, 60).indices) == 40


def test_distances_to_the_known_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    tokens, others = (unit64(rng.normal(size=(n, 6))).astype(np.float32) for n in (900, 200))
    nearest = np.linalg.norm(others[:, None].astype(np.float64) - tokens, axis=2).min(axis=1)
    known = Known(6, capacity=1000)
    for part in np.array_split(tokens, 7):
        known.add(part)
    assert known.radius == 0
    np.testing.assert_allclose(known.distances(others), nearest, atol=1e-5)


def test_where_not_all_is_kept_distances_are_too_large_by_no_more_than_the_radius() -> None:
    rng = np.random.default_rng(0)
    common = unit64(rng.normal(size=6) + 0.2 * rng.normal(size=(3000, 6)))
    rare = unit64(-common[:1])
    tokens = np.concatenate([common[:1000], rare, common[1000:]]).astype(np.float32)
    others = unit64(rng.normal(size=(200, 6))).astype(np.float32)
    known = Known(6, capacity=64)
    for part in np.array_split(tokens, 9):
        known.add(part)
    assert len(known) <= 64
    for asked in (others, tokens[::20]):
        nearest = np.linalg.norm(asked[:, None].astype(np.float64) - tokens, axis=2).min(axis=1)
        excess = known.distances(asked) - nearest
        assert excess.min() > -1e-3
        assert excess.max() <= known.radius + 1e-3
    assert known.distances(rare.astype(np.float32)) < 1e-3  # what was seen once stays


@pytest.mark.parametrize(("count", "false_alarms"), [(400, 0.05), (9, 0.01)])
def test_false_alarms_are_as_rare_as_they_are_said_to_be(count: int, false_alarms: float) -> None:
    rng = np.random.default_rng(0)
    rates, lowest = [], 1.0
    for _ in range(400):
        calibration = Calibration.of(rng.normal(size=count).tolist(), false_alarms)
        distances = rng.normal(size=50)
        rates.append(np.mean(distances > calibration.threshold))
        lowest = min(lowest, min(map(calibration.chance, distances.tolist())))
    said = max(false_alarms, 1 / (count + 1))
    assert 0.7 * said < np.mean(rates) < 1.15 * said
    assert lowest == pytest.approx(1 / (count + 1))


def test_what_was_never_seen_is_novel_and_says_where(perceiver: Perceiver, tmp_path: Path) -> None:
    monday, tuesday = scenes(tmp_path / "monday"), scenes(tmp_path / "tuesday", red=(4, 7))
    familiar = learn(seen(perceiver, monday), 0.01)
    calibration = familiar.calibration
    assert len(calibration.held_out) == 2  # of twelve frames, in the middle of each half
    (recording,) = seen(perceiver, tuesday)
    found = [familiar.novelty(tokens) for tokens in recording.tokens()]
    ranked = np.argsort([-one.distance for one in found])
    assert set(ranked[:2].tolist()) == {4, 7}
    assert found[4].distance > calibration.threshold
    assert np.unravel_index(int(found[4].patches.argmax()), (4, 6)) == (1, 3)


def test_too_few_frames_to_learn_what_is_usual_are_refused(perceiver: Perceiver, tmp_path: Path) -> None:
    monday = scenes(tmp_path / "monday")
    (monday / "0.png").unlink()
    (monday / "1.png").unlink()
    (monday / "2.png").unlink()
    with pytest.raises(UserError, match=r"monday gives 9 frames, and 10 are needed"):
        learn(seen(perceiver, monday), 0.01)
    assert novelty_module.FEWEST == 10


def test_whitening_against_float64() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.normal(1, (1, 2, 5), (4, 6, 3)).astype(np.float32) for _ in range(8)]
    rows = np.stack(frames).reshape(-1, 3).astype(np.float64)
    covariance = np.cov(rows.T, bias=True)
    shrunk = covariance + 0.5 * np.trace(covariance) / 3 * np.eye(3)
    whiten = Whitening.of(iter(frames), 0.5)
    np.testing.assert_allclose(whiten.matrix @ whiten.matrix @ shrunk, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(whiten.mean, rows.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("way", ["crop", "box"])
def test_frames_like_a_crop_come_first_and_say_where(perceiver: Perceiver, tmp_path: Path, way: str) -> None:
    folder = scenes(tmp_path / "images", red=(3, 8))
    frame = next(iter(open_source(folder))).rgb().copy()
    frame[16:24, 8:16] = 220, 20, 20
    looks = (
        look_in_box(perceiver, frame, (8, 16, 8, 8)) if way == "box" else looks_of_crop(perceiver, frame[16:24, 8:16])
    )
    (hits,) = search(seen(perceiver, folder), looks)
    ranked = np.argsort([-hit.likeness for hit in hits])
    assert set(ranked[:2].tolist()) == {3, 8}
    assert hits[3].box == hits[8].box == (24, 8, 8, 8)


def test_a_box_outside_the_picture_is_refused(perceiver: Perceiver) -> None:
    with pytest.raises(UserError, match="The box 50,0,8,8 is outside the image of 48x32 pixels"):
        look_in_box(perceiver, np.zeros((32, 48, 3), np.uint8), (50, 0, 8, 8))


def test_selected_frames_are_written_as_they_are_and_listed(perceiver: Perceiver, tmp_path: Path) -> None:
    one, two = scenes(tmp_path / "one"), scenes(tmp_path / "two", red=(5,))
    written, frames, radius = write_diverse(perceiver, [one, two], None, 0, 3, tmp_path / "out", quiet)
    assert (written, frames) == (3, 2 * FRAMES)
    listed = json.loads((tmp_path / "out" / "frames.json").read_text())
    assert listed["radius"] == pytest.approx(radius, abs=1e-4)
    assert (1, 5) in [(frame["recording"], frame["frame"]) for frame in listed["frames"]]
    for frame in listed["frames"]:
        original = cv2.imread(str((one, two)[frame["recording"]] / f"{frame['frame']}.png")).astype(int)
        image = cv2.imread(str(tmp_path / "out" / "images" / frame["file_name"])).astype(int)
        assert np.abs(image - original).mean() < 6
    with pytest.raises(UserError, match="holds images already"):
        write_diverse(perceiver, [one, two], None, 0, 3, tmp_path / "out", quiet)


@pytest.mark.parametrize("command", ["search", "novelty"])
def test_commands_write_a_list_and_a_sheet(
    student: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, known = scenes(tmp_path / "images", red=(3, 8)), scenes(tmp_path / "known")
    crop = tmp_path / "crop.png"
    cv2.imwrite(str(crop), np.full((8, 8, 3), (20, 20, 220), np.uint8))
    about = ["--like", str(crop)] if command == "search" else ["--known", str(known)]
    out = tmp_path / "out"
    parser, _ = dino_ros.cli.parsers()
    rest = ["--model", str(student), "--backend", "onnxruntime", "--rate", "0", "--out", str(out)]
    options = parser.parse_args([command, str(folder), *about, *rest])
    assert options.run(options) == 0
    listed = json.loads((out / "frames.json").read_text())
    assert {frame["frame"] for frame in listed["frames"][:2]} == {3, 8}
    if command == "novelty":
        assert [frame["novel"] for frame in listed["frames"][:2]] == [True, True]
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    red = (sheet[:, :, 2] > 180) & (sheet[:, :, 1] < 80)
    assert red[:, : 2 * sheet.shape[1] // 6].any()
    assert not red[:, 2 * sheet.shape[1] // 6 :].any()
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("package", ["commands", "nodes"])
def test_numpy_is_told_to_take_one_thread_before_it_is_imported(package: str) -> None:
    """Its second thread would wait in a loop, on a core that the engine or another program wants."""
    say = "import os, sys; assert 'numpy' not in sys.modules; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", f"import dino_ros.{package}; {say}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
