"""The evaluator of a run: the real process on real checkpoints, and the pictures it draws."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shapes import KINDS, render_shape

from dino_ros.images.overlay import OUTLINE
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig
from dino_train.data.multicrop import normalize
from dino_train.evaluation.classification.class_folder import open_class_folder
from dino_train.evaluation.classification.knn import knn_on_folder
from dino_train.evaluation.pictures.attention_pictures import (
    Attended,
    attend,
    attention_sheet,
    fixed_frames,
)
from dino_train.models.backbones import VitOutputs, build_backbone, mean_and_std
from dino_train.models.checkpoint import Checkpoint, checkpoint_backbone, load_checkpoint, save_checkpoint
from dino_train.recipes import BackboneConfig, CropsConfig, DinoRecipe
from dino_train.runs import evaluator

RECIPE = DinoRecipe(
    backbone=BackboneConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3),
    crops=CropsConfig(32, 16, local_crops_number=2),
)
WAIT = 240.0
"""Seconds within which a process must end."""


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labeled")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(24):
            kind = folder / part / f"kind_{number % KINDS}"
            kind.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(kind / f"{number:02d}.png"), render_shape(number % KINDS, rng)[:, :, ::-1])
    return folder


def write_checkpoint(run: Path, epoch: int, scale: float = 1.0) -> Path:
    """Write a checkpoint with a random student and a random teacher, whose weights are scaled (0: all look alike)."""
    torch.manual_seed(epoch)
    networks = {
        name: build_backbone(RECIPE.backbone, RECIPE.crops.global_crops_size) for name in ("teacher", "student")
    }
    objective = {
        f"{name}.backbone.{key}": tensor * (scale if name == "teacher" else 1.0)
        for name, vit in networks.items()
        for key, tensor in vit.state_dict().items()
    }
    checkpoint = Checkpoint(
        recipe=RECIPE,
        data=DataConfig([]),
        machine=MachineConfig(),
        evaluation=EvaluationConfig(),
        images=24,
        step=5 * epoch,
        steps_per_epoch=5,
        objective=objective,
        optimizer={},
        scaler={},
        seconds=0.0,
    )
    path = run / f"epoch_{epoch:04d}.pt"
    save_checkpoint(checkpoint, path)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 5 * epoch, "epoch": epoch, "loss": 3.0}) + "\n")
    return path


def evaluated(run: Path) -> list[str]:
    lines = (run / "evaluations.jsonl").read_text().splitlines() if (run / "evaluations.jsonl").exists() else []
    return [json.loads(line)["checkpoint"] for line in lines]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def test_every_checkpoint_is_evaluated_once_as_it_appears(labeled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_checkpoint(run, 0, scale=0.0)
    (run / "epoch_0001.pt").write_bytes(b"no checkpoint")
    data, evaluation = DataConfig([str(labeled / "train")]), EvaluationConfig(knn=str(labeled))
    process = evaluator.start_evaluator(run, data, evaluation, "cpu")
    wait_until(lambda: evaluated(run) == ["epoch_0000.pt"])
    write_checkpoint(run, 2)
    write_checkpoint(run, 3, scale=0.0)
    (run / "finished").touch()
    assert process.wait(WAIT) == 0
    assert evaluated(run) == ["epoch_0000.pt", "epoch_0002.pt", "epoch_0003.pt"]
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(0, 0.0), (10, 2.0), (15, 3.0)]
    assert all(set(line["knn"]) == {"10", "20"} for line in lines), "24 images are too few for more"
    assert lines[1]["knn"]["20"] > lines[0]["knn"]["20"]
    assert (run / "best.pt").samefile(run / "epoch_0002.pt")
    assert all((run / line["attention"]).is_file() for line in lines)
    messages = (run / "evaluation.log").read_text().splitlines()
    assert len(messages) == 1
    assert "epoch_0001.pt" in messages[0]
    report = (run / "report.html").read_text()
    assert "Finished: step 15" in report
    assert report.count("data:image/jpeg") == 6 * 4, "six frames: themselves, and at three checkpoints"

    # The run is resumed: evaluations stay as they are, even that of a checkpoint that is gone.
    (run / "finished").unlink()
    (run / "epoch_0000.pt").unlink()
    sheet = (run / lines[1]["attention"]).stat().st_mtime_ns
    process = evaluator.start_evaluator(run, data, evaluation, "cpu")
    write_checkpoint(run, 4, scale=0.0)
    (run / "finished").touch()
    assert process.wait(WAIT) == 0
    assert evaluated(run) == ["epoch_0000.pt", "epoch_0002.pt", "epoch_0003.pt", "epoch_0004.pt"]
    assert (run / lines[1]["attention"]).stat().st_mtime_ns == sheet
    assert (run / "best.pt").samefile(run / "epoch_0002.pt")
    assert not list(run.rglob(".*")), "no temporary file is left"


def test_it_finishes_and_ends_when_the_run_is_gone(labeled: Path, tmp_path: Path) -> None:
    for epoch in (0, 1):
        write_checkpoint(tmp_path, epoch)
    program = (
        "import sys; from pathlib import Path; from dino_train.runs.evaluator import start_evaluator;"
        "from dino_train.config import DataConfig, EvaluationConfig;"
        "print(start_evaluator(Path(sys.argv[1]), DataConfig([sys.argv[2]]), EvaluationConfig(), 'cpu').pid)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), str(labeled)]
    pid = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())
    assert evaluated(tmp_path) == ["epoch_0000.pt", "epoch_0001.pt"]
    assert "knn" not in (tmp_path / "evaluations.jsonl").read_text()
    assert not (tmp_path / "best.pt").exists(), "without k-NN nothing says which is best"


def test_what_fails_is_left_out_and_said(labeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = open_class_folder(labeled)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    val = dataclasses.replace(folder.val, files=[broken, *folder.val.files[1:]])
    frames = fixed_frames([str(labeled)])
    path = write_checkpoint(tmp_path, 1)
    line = evaluator.evaluate_checkpoint(
        tmp_path, path, frames, dataclasses.replace(folder, val=val), torch.device("cpu")
    )
    expected = {"step": 5, "epoch": 1.0, "checkpoint": path.name, "seconds": 0.0}
    assert line == {**expected, "attention": "attention/epoch_0001.png"}
    (record,) = caplog.records
    assert path.name in record.message
    assert str(broken) in record.message


def test_it_is_the_teacher_that_is_evaluated(labeled: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, scale=0.0)
    folder = open_class_folder(labeled)
    line = evaluator.evaluate_checkpoint(tmp_path, path, [], folder, torch.device("cpu"))
    teacher, student = (checkpoint_backbone(load_checkpoint(path), name) for name in ("teacher", "student"))
    expected = {str(k): accuracy for k, accuracy in knn_on_folder(teacher, folder, 32).items()}
    assert line is not None
    assert line["knn"] == expected
    assert expected != {str(k): accuracy for k, accuracy in knn_on_folder(student, folder, 32).items()}


def test_the_best_checkpoint_is_linked_or_else_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, best = (tmp_path / name for name in ("epoch_0001.pt", "epoch_0002.pt", "best.pt"))
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    for checkpoint in (first, first, second):
        evaluator.keep_best(checkpoint, best)
        assert best.samefile(checkpoint)

    def no_links(*_: object) -> None:
        raise OSError("this disk has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    evaluator.keep_best(first, best)
    assert best.read_bytes() == b"first"
    assert not best.samefile(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "epoch_0001.pt", "epoch_0002.pt"]


def test_fixed_frames_are_evenly_spaced(tmp_path: Path) -> None:
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), np.full((8, 8, 3), number, np.uint8))
    assert [int(frame[0, 0, 0]) for frame in fixed_frames([str(tmp_path)])] == [0, 12, 24, 35, 47, 59]
    three = [str(tmp_path / f"{number:02d}.png") for number in (40, 2, 7)]
    assert [int(frame[0, 0, 0]) for frame in fixed_frames(three)] == [40, 2, 7]


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((240, 320), (12, 16)), ((1000, 100), (16, 2)), ((20, 20), (4, 4)), ((70, 90), (9, 11)), ((900, 10), (16, 1))],
)
def test_attention_is_of_the_whole_image_in_its_aspect_ratio(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    vit = build_backbone(RECIPE.backbone, RECIPE.crops.global_crops_size)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    one = attend(vit.train(), image)
    assert one.image.shape == (8 * grid[0], 8 * grid[1], 3)
    assert one.attention.shape == (3, *grid)
    images = normalize(torch.from_numpy(one.image).permute(2, 0, 1)[None], *mean_and_std(vit))
    with torch.no_grad():
        _, expected, _ = VitOutputs(vit.eval())(images)
    np.testing.assert_allclose(one.attention, expected[0].numpy(), rtol=1e-5, atol=1e-7)


def test_the_sheet_shows_where_attention_is() -> None:
    attention = np.full((3, 6, 8), 1e-3, np.float32)
    places = [(1, 1), (4, 6), (2, 5)]  # row and column of the patch that each head looks at
    for head, (row, column) in enumerate(places):
        attention[head, row, column] = 0.9
    gray = np.full((48, 64, 3), 128, np.uint8)
    one = Attended(gray, attention)
    outlined = cv2.inRange(one.drawn(), np.array(OUTLINE), np.array(OUTLINE))
    rows, columns = np.nonzero(cv2.dilate(outlined, np.ones((9, 9), np.uint8)))
    for row, column in (places[0], places[2]):  # two of three equal patches hold 60 %: the first two
        assert (np.hypot(rows - (8 * row + 4), columns - (8 * column + 4)) < 8).any()
    sheet = attention_sheet([one, one])
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 246, 2 * 326 + 2 * 163, 3)
    # The heads' tiles, two above each other: bright is where the head looks.
    for head, (top, left) in enumerate([(0, 652), (123, 652), (0, 815)]):
        brightness = sheet[top : top + 123, left : left + 163].sum(axis=2)
        y, x = np.argwhere(brightness == brightness.max()).mean(axis=0)
        order = [0, 2, 1][head]  # the upper row holds the first half of the heads
        assert (int(y / 123 * 6), int(x / 163 * 8)) == places[order]
