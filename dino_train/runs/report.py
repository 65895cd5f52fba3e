"""`report.html` of a run: one self-contained file, made from the run's folder."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dino_ros.files import write_whole
from dino_ros.images.sampling import evenly_spaced
from dino_train.runs import charts
from dino_train.runs.charts import Series, line_chart
from dino_train.runs.folder import (
    Line,
    RunFolder,
    best_evaluation,
    knn_score,
    read_run,
    read_text,
)
from dino_train.runs.health import health_summary
from dino_train.runs.log import LOG_NAME

REPORT_NAME = "report.html"
MESSAGES_NAME = "evaluation.log"
COLUMNS = 8
"""Largest number of checkpoints whose attention is shown."""
CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Loss", {"loss": ""}),
    (
        "Entropies, nats",
        {"marginal_entropy": "mean output", "teacher_entropy": "one output", "kl": "KL to student"},
    ),
    ("Effective rank of the CLS tokens", {"effective_rank": ""}),
    ("Standard deviation of the projections (random: 1)", {"embedding_std": ""}),
    ("Contrastive accuracy", {"contrastive_accuracy": ""}),
    ("Norm of the center", {"center_norm": ""}),
    ("Learning rate", {"lr": ""}),
    ("Weight decay", {"weight_decay": ""}),
    ("Momentum of the teacher's EMA", {"momentum_teacher": ""}),
    ("Teacher temperature", {"teacher_temp": ""}),
    ("Gradient norm", {"gradient_norm": ""}),
    ("Images per second", {"images_per_second": ""}),
    ("Peak memory, GB", {"memory_gb": ""}),
)
"""Title of each chart, and the fields of the log that it draws, with their names. Every other field that is logged gets
a chart of its own."""
MIME = {".jpg": "jpeg", ".png": "png"}
NOT_DRAWN = {"step", "epoch", "elapsed_seconds"}

STYLE = (
    """
:root { color-scheme: light dark; --ground: #fff; --text: #1c1e21; --quiet: #6b7076; --rule: #e3e5e8;
  --c0: #1f6fb4; --c1: #c8561b; --c2: #3f8f3f; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --text: #e4e6e9; --quiet: #969ba1; --rule: #303439;
  --c0: #6cb2ee; --c1: #f0935c; --c2: #7cc67c; } }
* { box-sizing: border-box; }
body { background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 1320px;
  margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; margin: .4em 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2em 0 .6em; }
figure { margin: 0; }
h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .3em; }
.quiet { color: var(--quiet); margin: 0 0 1em; }
.health { max-width: 46em; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 22px 28px; }
.scroll { overflow: auto; max-height: 26em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; white-space: nowrap; padding: .25em .8em .25em 0; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.attention th { text-align: left; vertical-align: bottom; white-space: normal; border: 0; }
.attention td { border: 0; padding: 0 4px 4px 0; }
.attention img { display: block; width: clamp(96px, 10vw, 136px); border-radius: 3px; }
.sheet { display: block; width: 100%; max-width: 1240px; }
details { margin: .8em 0; }
summary { cursor: pointer; font-weight: 600; }
pre { font-size: .8rem; overflow-x: auto; }
"""
    + charts.STYLE
)


def write_report(path: Path) -> Path:
    """Write `report.html` into the folder of a run, finished or not, and return its path.

    Leaves out whatever the folder lacks. Raises UserError if it has neither recipe nor log.
    """
    run = read_run(path)
    name = escape(path.resolve().name)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{name}</h1>
<p class="quiet">{escape(state(run))}</p>
<p class="health">{escape(health_summary(run))}</p>
{section("Curves", log_charts(run))}
{section("Evaluations", evaluations(run))}
{section("Student and teacher", comparison(run))}
{section("Attention", attention(run))}
{section("Settings", folded("Resolved recipe", pre(run.recipe_text)) + folded("Environment", environment(run)))}
</body>
</html>
"""
    write_whole(path / REPORT_NAME, page.encode())
    return path / REPORT_NAME


def state(run: RunFolder) -> str:
    """How far the run has come, and when it last logged a line."""
    if not run.log:
        return "Nothing has been logged yet."
    step, epoch = run.log[-1]["step"], run.log[-1]["epoch"]
    at = f"step {step:,}"
    if epoch > 0 and run.epochs:
        at += f" of {round(step / epoch * run.epochs):,}, epoch {epoch:.1f} of {run.epochs:g}"
    if run.finished:
        return f"Finished: {at}."
    logged = time.strftime("%Y-%m-%d %H:%M", time.localtime((run.path / LOG_NAME).stat().st_mtime))
    return f"{at.capitalize()}; last logged {logged}."


def log_charts(run: RunFolder) -> str:
    """A chart of everything that is logged."""
    known = NOT_DRAWN.union(*(fields for _, fields in CHARTS))
    others = dict.fromkeys(field for line in run.log for field in line if field not in known)
    chance = run.rebuilt.chance_loss if run.rebuilt else None
    drawn = []
    for title, fields in (*CHARTS, *((field.replace("_", " ").capitalize(), {field: ""}) for field in others)):
        series = [Series(label, values) for field, label in fields.items() if (values := points(run.log, field))]
        drawn.append(chart(title, series, ("chance", chance) if title == "Loss" and chance else None))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def chart(
    title: str, series: Sequence[Series], reference: tuple[str, float] | None = None, from_zero: bool = False
) -> str:
    """A chart under its title; "" if there is nothing to draw."""
    svg = line_chart(title, series, reference, from_zero)
    return f"<figure><h3>{escape(title)}</h3>{svg}</figure>" if svg else ""


def points(log: Iterable[Line], field: str) -> list[tuple[float, float]]:
    """Epoch and value of a field, in all lines that have it as a number, NaN included."""
    return [(line["epoch"], line[field]) for line in log if isinstance(line.get(field), int | float)]


def evaluations(run: RunFolder) -> str:
    """k-NN of every checkpoint as a chart and a table, and the evaluator's messages."""
    scored = [line for line in run.evaluations if knn_score(line) is not None]
    parts = []
    if scored:
        start = [(run.start_name, 100 * (knn_score(line) or 0.0)) for line in scored[:1] if line["step"] == 0]
        curve = Series("", [(line["epoch"], 100 * (knn_score(line) or 0.0)) for line in scored])
        parts.append('<div class="charts">' + chart("k-NN, %", [curve], start[0] if start else None, from_zero=True))
        parts.append(f'<div class="scroll">{knn_table(run, scored)}</div></div>')
    parts.append(folded("Messages", pre(read_text(run.path / MESSAGES_NAME))))
    return "".join(parts)


def knn_table(run: RunFolder, scored: Sequence[Line]) -> str:
    """A row of accuracies for each evaluated checkpoint."""
    neighbors = sorted({k for line in scored for k in line["knn"]}, key=int)
    best = best_evaluation(run.evaluations)
    rows = ["<tr><th>checkpoint</th>" + "".join(f"<th>k = {escape(k)}</th>" for k in neighbors) + "</tr>"]
    for line in scored:
        name = run.start_name if line["step"] == 0 else f"epoch {line['epoch']:g}"
        cells = "".join(f"<td>{format(line['knn'][k], '.1%') if k in line['knn'] else ''}</td>" for k in neighbors)
        rows.append(f"<tr><td>{escape(name)}{' (best)' if line is best else ''}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def comparison(run: RunFolder) -> str:
    """A distilled student compared with its teacher."""
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in run.comparison]
    return f"<table><tr><th></th><th>student</th><th>teacher</th></tr>{''.join(rows)}</table>" if rows else ""


def attention(run: RunFolder) -> str:
    """The attention in the fixed frames, one per row, at up to COLUMNS checkpoints from the first to the last."""
    drawn = [(line, run.path / line["attention"]) for line in run.evaluations if "attention" in line]
    drawn = [(line, sheet) for line, sheet in drawn if sheet.is_file()]
    if not drawn:
        return ""
    columns = [drawn[index] for index in evenly_spaced(len(drawn), COLUMNS)]
    titles = [run.start_name if line["step"] == 0 else f"epoch {line['epoch']:g}" for line, _ in columns]
    rows = [f"<tr><th></th>{''.join(f'<th>{escape(title)}</th>' for title in titles)}</tr>"]
    folders = [sheet.with_suffix("") for _, sheet in columns]
    pictures = run.path / "attention"
    for frame in sorted({file.name for folder in folders for file in folder.glob("frame_*.jpg")}):
        cells = [image(pictures / frame), *(image(folder / frame) for folder in folders)]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    newest = columns[-1][1]
    return (
        '<p class="quiet">Where the CLS token looks: the mean of its heads as a heat map, and the outline of the '
        "patches that hold 60% of it.</p>"
        f'<div class="wide"><table class="attention">{"".join(rows)}</table></div>'
        + folded(f"Each head, {titles[-1]}", image(newest, "sheet"))
    )


def image(file: Path, kind: str = "") -> str:
    """A picture file, embedded in the page; "" if it is missing."""
    if not file.is_file():
        return ""
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<img class="{kind}" alt="" src="data:image/{MIME[file.suffix]};base64,{content}">'


def environment(run: RunFolder) -> str:
    """The software and hardware of the run."""
    rows = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in flat(run.environment)]
    return f'<table class="settings">{"".join(rows)}</table>' if rows else ""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested values, with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def section(title: str, content: str) -> str:
    """A part of the page under its title; "" without content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def folded(title: str, content: str) -> str:
    """Content that opens at a click; "" without content."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def pre(text: str) -> str:
    """Text as it is; "" without text."""
    return f"<pre>{escape(text)}</pre>" if text.strip() else ""
