"""Scores as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dino_ros.files import write_whole

Scores = Mapping[str, float | int | str]
"""One row: what was scored by name. Shares are 0 to 1."""


WIDTH = 120
"""Of a table in characters, at least: a narrow terminal would cut the names."""


def show(
    title: str, rows: Sequence[Scores], out: Path | None = None, details: Mapping[str, Sequence[Scores]] | None = None
) -> None:
    """Print rows that have the same names as a table; write them, and `details` by name, to `out` if there is one."""
    table = Table(*rows[0], title=title)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table)
    if out:
        lists = {"rows": rows, **(details or {})}
        found = {"title": title, **{name: [dict(row) for row in rows] for name, rows in lists.items()}}
        write_whole(out, json.dumps(found, indent=2).encode())
