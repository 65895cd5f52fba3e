"""The report of a run: whole whatever the folder holds, in need of no other file, and right in what it says."""

import base64
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("torch")

from run_folders import RECIPE, evaluation, log_line, make_run

from dino_ros.errors import UserError
from dino_train.runs.curves import HEIGHT, Series, line_chart, spread, ticks
from dino_train.runs.report import chosen, write_report

VOID = {"meta", "img", "br", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """Checks that elements are closed in turn, and gathers their text and what they refer to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_whole_run_makes_one_file_that_needs_no_other(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "table <b>&",
        "".join(log_line(step, lr=1e-4 * step, koleo=-0.5) for step in range(10, 1001, 10)),
        evaluation(0, 0.12, attention="attention/epoch_0000.png")
        + evaluation(5, 0.42, attention="attention/epoch_0005.png")
        + evaluation(10, 0.4, attention="attention/epoch_0010.png"),
        RECIPE + "# <script>alert(1)</script>\n",
    )
    (run / "environment.json").write_text(json.dumps({"versions": {"torch": "2.x"}, "command": "a <b>"}))
    (run / "finished").touch()
    pictures = set()
    for sheet in ("epoch_0000", "epoch_0005", "epoch_0010"):
        (run / "attention" / sheet).mkdir(parents=True)
        for picture in (f"{sheet}.png", f"{sheet}/frame_00.jpg", f"{sheet}/frame_01.jpg"):
            (run / "attention" / picture).write_bytes(picture.encode())
            pictures.add(picture.encode())

    path = write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "table <b>&" in page.text
    assert "versions.torch" in page.text
    assert "Finished: step 1,000 of 2,000, epoch 10.0 of 20." in page.text
    assert "Koleo" in page.text, "what is logged and not known is drawn too"
    assert "42.0%" in page.text
    assert "epoch 5 (best)" in page.text
    assert all(reference.startswith("data:image/") for reference in page.references)
    shown = {base64.b64decode(reference.split(",")[1]) for reference in page.references}
    assert shown == pictures - {b"epoch_0000.png", b"epoch_0005.png"}, "of the sheets only the newest"
    assert not list(run.glob("*.tmp"))


@pytest.mark.parametrize(
    ("log", "evaluations"),
    [
        ("", ""),
        (log_line(10), ""),
        (log_line(10) + log_line(20, loss=math.nan, kl=math.inf), ""),
        (log_line(10) + log_line(20)[:-30], evaluation(0, 0.1) + evaluation(1, 0.2)[:-9]),
        ("[]\nnull\n{}\n\n" + log_line(10), "3\n" + evaluation(0, 0.1)),
        (log_line(0), evaluation(0)),
    ],
)
def test_a_run_that_was_cut_anywhere_has_a_report(tmp_path: Path, log: str, evaluations: str) -> None:
    run = make_run(tmp_path / "run", log, evaluations)
    assert "Recipe, as resolved" in Page(write_report(run)).text
    assert "nan" not in re.sub(r"<style>.*</style>", "", (run / "report.html").read_text(), flags=re.DOTALL)


def test_log_alone_and_recipe_alone_are_enough(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", log_line(10))
    (run / "recipe.yaml").write_text("dino: [")
    assert "Step 10, " not in Page(write_report(run)).text
    assert "Step 10; last logged" in Page(run / "report.html").text
    (run / "log.jsonl").unlink()
    assert "Nothing is logged yet." in Page(write_report(run)).text
    (run / "recipe.yaml").unlink()
    with pytest.raises(
        UserError, match=r"run is not the folder of a run: it holds neither recipe\.yaml nor log\.jsonl"
    ):
        write_report(run)


def drawn_lines(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]
        for points in re.findall(r'<polyline class="line c0" points="([^"]*)"', svg)
    ]


def test_a_line_is_drawn_to_scale_and_broken_where_it_has_no_value() -> None:
    values = [0.0, 10.0, 5.0, math.nan, 2.5, math.inf, 7.5, 10.0]
    svg = line_chart("Loss", [Series("loss", list(enumerate(values)))], ("ln K", 5.0))
    lines = drawn_lines(svg)
    assert [len(line) for line in lines] == [3, 2, 2], "a lone point is a line of no length"
    (x0, bottom), (_, top), (x2, middle) = lines[0]
    assert middle == pytest.approx((bottom + top) / 2, abs=0.1)
    assert lines[1][0] == pytest.approx((2 * x2 - x0, (bottom + middle) / 2), abs=0.1)
    assert f'class="reference" x1="52" x2="304" y1="{middle}"' in svg
    assert "loss 10<" in svg
    assert line_chart("Loss", [Series("loss", [(0.0, math.nan)])]) == ""


def test_a_long_log_is_thinned_but_keeps_its_extremes() -> None:
    values = [1.0 + step / 10_000 for step in range(10_000)]
    values[4_321] = 9.0
    svg = line_chart("Norm", [Series("", [(float(step), value) for step, value in enumerate(values)])])
    assert len(svg) < 30_000
    (line,) = drawn_lines(svg)
    assert line[0][1] > line[-1][1], "rises"
    band = [
        float(pair.split(",")[1]) for pair in re.findall(r'<polygon class="band c0" points="([^"]*)"', svg)[0].split()
    ]
    assert min(band) < 0.2 * HEIGHT < min(y for _, y in line), "the one high value is in the band"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.32), (-3, 700), (5e-7, 5e-4), (2, 2), (0, 0), (-1, -1)])
def test_ticks_are_few_and_round_and_cover_the_range(low: float, high: float) -> None:
    values = ticks(low, high)
    assert values[0] <= low + 1e-12
    assert high - 1e-12 <= values[-1]
    assert 2 <= len(values) <= 8
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:.3e}"[:5] in {"1.000", "2.000", "5.000"}


def test_labels_do_not_overlap_and_stay_inside() -> None:
    placed = spread([(150.0, "", "a"), (151.0, "", "b"), (20.0, "", "c"), (165.0, "", "d")])
    heights = [height for height, _, _ in placed]
    assert [text for _, _, text in placed] == ["c", "a", "b", "d"]
    assert all(b - a >= 14 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= HEIGHT


def test_columns_are_spread_from_first_to_last() -> None:
    assert chosen(5, 8) == [0, 1, 2, 3, 4]
    assert chosen(100, 8)[0] == 0
    assert chosen(100, 8)[-1] == 99
    assert len(set(chosen(9, 8))) == 8
