"""Scores, printed as a table for people and written as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dino_ros.files import write_whole

Scores = Mapping[str, float | int | str]
"""One row of a table: values by column. Shares are 0 to 1."""

WIDTH = 140
"""Least width of a table, in characters: a narrow terminal would cut names short."""


def show(
    title: str, rows: Sequence[Scores], out: Path | None = None, details: Mapping[str, Sequence[Scores]] | None = None
) -> None:
    """Print rows with the same columns as a table; write them, and named lists of `details`, to the JSON file `out`.

    The table leaves out columns that are NaN in every row.
    """
    columns = [name for name in rows[0] if not all(_is_nan(row[name]) for row in rows)]
    table = Table(*columns, title=title)
    table.columns[0].no_wrap = True
    for row in rows:
        values = [row[name] for name in columns]
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table)
    if out:
        lists = {"rows": rows, **(details or {})}
        content = {"title": title, **{name: [dict(row) for row in rows] for name, rows in lists.items()}}
        write_whole(out, json.dumps(content, indent=2).encode())


def _is_nan(value: float | int | str) -> bool:
    return isinstance(value, float) and math.isnan(value)
