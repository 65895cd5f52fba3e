"""The table and the contact sheet."""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rich")

from bags import raw, write_bag, write_topics

from dino_ros.errors import UserError
from dino_train.commands.data import parser, run
from dino_train.data.contact_sheet import COLUMNS, GAP, TILE
from dino_train.data.selection import SelectionParameters
from dino_train.data.survey import survey


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def row(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if name in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bag(tmp_path / "bag", frames=11, broken=4)
    (tmp_path / "folder").mkdir()
    for number in range(9):
        cv2.imwrite(str(tmp_path / "folder" / f"{number}.png"), np.zeros((20, 30, 3), np.uint8))
    options = parser().parse_args(
        [str(tmp_path / "bag"), str(tmp_path / "folder"), "--weight", "{/raw: 2}", "--out", str(tmp_path / "sheet.png")]
    )
    run(options)
    output = capsys.readouterr().out
    assert row(output, "bag /raw")[1:] == ["64x48 bgr8", "11", "11", "0", "0", "1.0", "53.7% (x2)"]
    assert row(output, "bag /compressed")[1:] == ["64x48 png", "11", "10", "0", "1", "1.0", "24.4%"]
    assert row(output, "folder")[1:] == ["30x20 png", "9", "9", "-", "0", "-", "22.0%"]
    assert "left out: /text of bag: it is of type std_msgs/msg/String, not of images" in output


def test_contact_sheet_shows_kept_frames_and_dropped_ones(tmp_path: Path) -> None:
    """A red stretch, then a green one, then a blue one."""
    colors = np.repeat(np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8), 5, axis=0)
    frames = [raw("rgb8", np.full((60, 80, 3), color, np.uint8)) for color in colors]
    bag = write_topics(tmp_path / "bag", {"/camera": frames})
    survey([bag], [], {}, SelectionParameters(), tmp_path / "sheet.png")
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "sheet.png")), cv2.COLOR_BGR2RGB)
    assert sheet.shape[1] > COLUMNS * TILE[0]

    def area(color: tuple[int, int, int]) -> float:
        return float((sheet == color).all(axis=2).sum() / (TILE[0] * TILE[1]))

    # Each color once among the frames kept. The twelve dropped ones give four examples, each beside the kept one:
    # of stretches of three, so that one color has two and the others one each.
    areas = [round(area(color), 2) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    assert sorted(areas) == [3, 3, 5]
    assert sheet[GAP + 34 + TILE[1] // 2, 2 * GAP + TILE[0] // 2].tolist() == [200, 0, 0], "the first one first"


def test_a_sheet_that_cannot_be_written(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag")
    (tmp_path / "file").write_text("")
    for out in ("sheet.jpg", "file/sheet.png"):
        with pytest.raises(UserError, match=out):
            survey([tmp_path / "bag"], [], {}, SelectionParameters(), tmp_path / out)
