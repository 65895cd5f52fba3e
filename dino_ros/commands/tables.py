"""Nested values as the rows of a table."""

from __future__ import annotations

from typing import Any


def flatten(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """Rows of a table: name and value, with nested values as `name key`."""
    rows: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", inner) for key, inner in value.items()]
        else:
            rows.append((name, "unknown" if value is None else value))
    return rows
