"""The report of a run: complete whatever its folder holds, self-contained, and drawn to scale."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from run_folders import RECIPE, evaluation, log_line, make_run

from dino_ros.errors import UserError
from dino_train.runs.charts import Series, line_chart, thinned
from dino_train.runs.report import write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that elements are properly nested, and gathers their text and references."""

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
    assert "Koleo" in page.text, "unknown fields of the log are drawn too"
    assert "42.0%" in page.text
    assert "epoch 5 (best)" in page.text
    assert all(reference.startswith("data:image/") for reference in page.references)
    shown = {base64.b64decode(reference.split(",")[1]) for reference in page.references}
    assert shown == pictures - {b"epoch_0000.png", b"epoch_0005.png"}, "of the sheets, only the newest"
    assert not list(run.glob(".*")), "no temporary file is left"


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
    assert "Resolved recipe" in Page(write_report(run)).text
    assert "nan" not in re.sub(r"<style>.*</style>", "", (run / "report.html").read_text(), flags=re.DOTALL)


def test_log_alone_and_recipe_alone_are_enough(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", log_line(10))
    (run / "recipe.yaml").write_text("dino: [")
    assert "Step 10, " not in Page(write_report(run)).text
    assert "Step 10; last logged" in Page(run / "report.html").text
    (run / "log.jsonl").unlink()
    assert "Nothing has been logged yet." in Page(write_report(run)).text
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"run .*recipe\.yaml .*log\.jsonl"):
        write_report(run)


def drawn_lines(svg: str) -> list[list[tuple[float, float]]]:
    """The unbroken stretches of the first line of a chart; y points down."""
    (path,) = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--c0\)', svg)
    numbers = [[float(number) for number in re.findall(r"[\d.]+", stretch)] for stretch in path.split("M")[1:]]
    return [list(zip(stretch[::2], stretch[1::2], strict=True)) for stretch in numbers]


def test_a_line_is_drawn_to_scale_and_broken_where_it_has_no_value() -> None:
    values = [0.0, 10.0, 5.0, math.nan, 2.5, math.inf, 10.0, 7.5]
    svg = line_chart("Loss", [Series("loss", list(enumerate(values)))], ("ln K", 5.0))
    first, *others = [line for line in drawn_lines(svg) if len(line) > 1]
    (x0, bottom), (_, top), (x2, middle) = first
    assert middle == pytest.approx((bottom + top) / 2, abs=0.1)
    assert [len(line) for line in others] == [2]
    assert others[0][1] == pytest.approx((x0 + 3.5 * (x2 - x0), (middle + top) / 2), abs=0.1)
    assert svg.count("<use ") == 1, "the lone point is a dot"
    assert f"{middle:.1f}"[:-1] in svg.split("stroke-dasharray")[0].rsplit("<path", 1)[1], "the line of reference"
    assert "loss 7.5<" in svg
    assert "ln K<" in svg
    assert line_chart("Loss", [Series("loss", [(0.0, math.nan)])]) == ""


def test_a_chart_has_the_colors_of_the_page_and_nothing_that_others_on_it_have() -> None:
    series = [Series(name, [(0.0, 1.0 + n), (1.0, 2.0)]) for n, name in enumerate(("a <b>", "b", "c"))]
    charts = [line_chart(title, series) for title in ("Loss", "A & B")]
    for svg in charts:
        assert set(re.findall(r"var\((--\w+)\)", svg)) == {"--quiet", "--rule", "--c0", "--c1", "--c2"}
        assert not re.findall(r"#[0-9a-f]{6}", svg)
        assert "a &lt;b&gt; 2<" in svg
        assert "<style" not in svg
    assert 'aria-label="A &amp; B"' in charts[1]
    ids = [name for svg in charts for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("length", [1, 7, 300, 301, 10_000])
def test_a_long_log_is_thinned_to_means_and_ranges(length: int) -> None:
    values = np.random.default_rng(0).normal(size=length)
    points = [(float(step), value) for step, value in enumerate(values)]
    rows = thinned(points)
    assert len(rows) <= 300
    each = int(rows[0, 0]) + 1
    for number, row in enumerate(rows):
        group = values[each * number : each * (number + 1)]
        last = min(each * (number + 1), length) - 1
        assert row == pytest.approx([last, group.mean(), group.min(), group.max()])
    assert len(line_chart("Norm", [Series("", points)])) < 100_000
    points[length // 2] = (float(length // 2), math.inf)
    assert np.isnan(thinned(points)[:, 1:]).all(axis=1).sum() == 1
