"""`dino-ros teach` with a student that sees colors: from picture files to what the node reads."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_ros.cli import main
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import object_in_box
from dino_ros.student import read_student
from dino_ros.taught.object_files import TaughtObjects
from dino_ros.taught.pictures import read_picture, write_picture


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A frame with a red thing on gray-green ground, and its mask."""
    rgb = np.full((64, 96, 3), (60, 90, 60), np.uint8)
    rgb[16:48, 32:64] = (220, 30, 30)
    write_picture(tmp_path / "frame.png", rgb)
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 32:64] = 255
    write_picture(tmp_path / "mask.png", mask)
    return tmp_path


def teach(monkeypatch: pytest.MonkeyPatch, student: Path, *arguments: object) -> int:
    line = ["dino-ros", "teach", *map(str, arguments), "--model", str(student), "--backend", "onnxruntime"]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_looks_add_up_are_told_and_made_again(
    scene: Path, student: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, frame = scene / "objects", scene / "frame.png"
    assert teach(monkeypatch, student, "cup", "--like", frame, "--mask", scene / "mask.png", "--out", out) == 0
    told = capsys.readouterr().out
    assert "cup is what fills 17% of" in told
    assert f"taught_folder:={out}" in told
    assert teach(monkeypatch, student, "cup", "--not", "--like", frame, "--click", "5,5", "--out", out) == 0
    objects = TaughtObjects.load(out, read_student(student), student)
    shown, other = objects.looks["cup"]
    assert [one.how for one in objects.records["cup"]] == ["mask", "click"]
    assert (shown.shows_it, other.shows_it) == (True, False)
    red = np.array([220, 30, 30]) / 255 * 4 - 2
    np.testing.assert_allclose(shown.inside.tokens, [red / np.linalg.norm(red)] * 4, atol=2e-3)
    assert read_picture(out / "cup" / "look_1_found.jpg").shape == (64, 192, 3)

    values = json.loads((out / "cup.json").read_text())
    values["student_sha256"] = "of another"
    (out / "cup.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert teach(monkeypatch, student, "--list", out) == 0
    assert "taught for another student" in capsys.readouterr().out
    drawn = out / "cup" / "look_1_found.jpg"
    before = drawn.read_bytes()
    drawn.write_bytes(b"of the other student")
    assert teach(monkeypatch, student, "--again", out) == 0
    assert read_picture(drawn).shape == (64, 192, 3)
    assert drawn.read_bytes() != before, "the look at what it is not came later"
    again = TaughtObjects.load(out, read_student(student), student).looks["cup"]
    np.testing.assert_allclose(again[0].inside.tokens, shown.inside.tokens, atol=0.02)
    capsys.readouterr()
    assert teach(monkeypatch, student, "cup", "--undo", out) == 0
    assert capsys.readouterr().out == "cup: 1 look left.\n"
    assert len(TaughtObjects.load(out, read_student(student), student).looks["cup"]) == 1
    assert teach(monkeypatch, student, "cup", "--forget", out) == 0
    assert [*out.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cup", "--like", "frame.png", "--click", "96,5", "--out", "o"], "outside the image of 96x64"),
        (["cup", "--like", "frame.png", "--box", "100,5,9,9", "--out", "o"], "outside the image of 96x64"),
        (["cup", "--like", "frame.png", "--box", "5,5,0,9", "--out", "o"], "outside the image of 96x64"),
        (["cup", "--like", "frame.png", "frame.png", "--click", "5,5", "--out", "o"], "one picture"),
        (["cup", "--like", "none.png", "--out", "o"], "no image none.png"),
        (["objects", "--like", "frame.png", "--out", "o"], "a topic of the node has it"),
        (["cup", "--out", "o"], "--like"),
        (["cup", "--like", "frame.png"], "Name one folder"),
        (["cup", "--forget", "o"], "There is no object 'cup'"),
        (["cup", "--undo", "o"], "There is no object 'cup'"),
        (["--again", "o"], "Nothing is taught in o"),
    ],
)
def test_what_cannot_be_taught_is_said_in_a_sentence(
    scene: Path,
    student: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(scene)
    assert teach(monkeypatch, student, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (scene / "o").exists()


def test_a_box_is_looked_at_closely(test_data: Path) -> None:
    """On the swan of DAVIS the object in its box has an IoU of 0.89; the box alone has 0.35."""
    perceiver = Perceiver.load("", backend="onnxruntime")
    rgb = read_picture(test_data / "davis2016" / "images" / "blackswan" / "00000.jpg")
    truth = cv2.imread(str(test_data / "davis2016" / "masks" / "blackswan" / "00000.png"), 0)
    x, y, width, height = cv2.boundingRect(truth)  # type: ignore[arg-type]
    mask = object_in_box(perceiver, rgb, x, y, width, height)
    assert iou(mask, truth) > 0.8  # type: ignore[arg-type]
    outside = np.ones_like(mask)
    outside[y : y + height, x : x + width] = 0
    assert not mask[outside > 0].any()


def iou(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum())
