"""Students judged without labels: a good head against heads that miss, flicker, or see objects everywhere."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("sklearn")

import onnx
from students import INFO
from test_foreground_head import scene

from dino_ros.cli import parsers
from dino_ros.errors import UserError
from dino_ros.learning.judge import Scores, judge, why_no_better
from dino_ros.perception.perceiver import Perceiver
from dino_train.export.foreground_head import write_student

# Of the student's mean red, green and blue per patch, from -2 to 2: objects are red, the rest is gray.
GOOD, BLUE = ([30.0, -20.0, -20.0], -10.0), ([-30.0, 0.0, 30.0], 10.0)
EVERYWHERE, FLICKERS = ([0.0, 0.0, 0.0], 9.0), ([0.0, 40.0, 0.0], 26.0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(8):
        cv2.imwrite(str(folder / f"{seed}.png"), scene(seed)[0][:, :, ::-1])
    return folder


def with_head(student: Path, out: Path, head: tuple[list[float], float]) -> Path:
    info = dataclasses.replace(INFO, foreground_head={"labels": "test"})
    write_student(student, out, info, np.array(head[0], np.float32), head[1])
    return out


def test_a_good_head_is_told_from_bad_ones(student: Path, images: Path, tmp_path: Path) -> None:
    heads = {"good": GOOD, "blue": BLUE, "everywhere": EVERYWHERE, "flickers": FLICKERS}
    files = [with_head(student, tmp_path / f"{name}.onnx", head) for name, head in heads.items()]
    scores = judge([Perceiver.load(file, "onnxruntime") for file in files], images)
    good, blue, everywhere, flickers = scores
    assert good.agreement > 0.8
    assert good.steadiness > 0.6
    assert good.sound == 1.0
    assert blue.agreement < 0.3
    assert everywhere == Scores(everywhere.agreement, 0.0, 0.0)
    assert flickers.steadiness < 0.5
    assert [why_no_better(other, good) for other in (blue, everywhere, flickers)] == ["", "", ""]
    assert all(why_no_better(good, other) for other in scores), "nor is a student better than itself"


def test_a_referee_of_other_features_takes_the_place_of_the_first(student: Path, images: Path, tmp_path: Path) -> None:
    students = [with_head(student, tmp_path / f"{n}.onnx", h) for n, h in (("blue", BLUE), ("good", GOOD))]
    model = onnx.load(student)
    (shift,) = (one for one in model.graph.initializer if one.name == "shift")
    shift.float_data[0] = 0.0  # features are of brightness rather than of color
    onnx.save(model, tmp_path / "other.onnx")
    blue, good, other = (Perceiver.load(file, "onnxruntime") for file in (*students, tmp_path / "other.onnx"))
    with_referee = judge([blue, good], images, other)
    assert with_referee == judge([other, blue, good], images)[1:]
    assert with_referee[1].agreement != judge([blue, good], images)[1].agreement


def test_the_command_says_and_writes_which_is_better(
    student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running, candidate = (with_head(student, tmp_path / f"{n}.onnx", h) for n, h in (("blue", BLUE), ("good", GOOD)))
    out = tmp_path / "scores.json"
    arguments = ["judge", str(running), str(candidate), "--images", str(images), "--out", str(out)]
    options = parsers()[0].parse_args(arguments)
    assert options.run(options) == 0
    written = json.loads(out.read_text())
    expected = judge([Perceiver.load(path, "onnxruntime") for path in (running, candidate)], images)
    assert [Scores(**written[name]) for name in ("running", "candidate")] == expected
    assert capsys.readouterr().out.endswith("The candidate is better.\n")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        judge([], tmp_path)
