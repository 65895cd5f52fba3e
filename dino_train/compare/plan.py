"""The plan of a comparison: which recipes to run, from recipe files and from files that list runs.

A file that lists runs has three keys: `runs` maps the name of each run to its changes; `recipe` is the name or path of
the recipe that they change, for all runs, or inside a run for that run alone; `changes` apply to all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_ros.errors import UserError
from dino_train.recipes import Recipe
from dino_train.recipes.files import find_recipe, parse_recipe, read_settings

Settings = dict[str, Any]
KEYS = {"recipe", "changes", "runs"}


def read_runs(names_or_paths: Sequence[str]) -> dict[str, Recipe]:
    """Read the recipes to run, by name of the run: that of a recipe file, or those in a file that lists runs.

    Raises UserError for a file that is neither, for a repeated name, and for settings that a recipe does not have.
    """
    recipes: dict[str, Recipe] = {}
    for given in names_or_paths:
        path = find_recipe(given, "compare", "pretrain")
        for name, values in runs_of(path).items():
            if name in recipes or Path(name).name != name:
                raise UserError(f"{path} has a run {name!r}: each run needs a unique name that can be a folder's.")
            recipes[name] = parse_recipe(values, f"{name} of {path}")
            recipes[name].check()
    return recipes


def runs_of(path: Path) -> dict[str, Settings]:
    """Settings of the runs in a file, by name; a recipe is a single run."""
    content = read_settings(path)
    if "runs" not in content:
        return {path.stem: content}
    if unknown := content.keys() - KEYS:
        raise UserError(f"{path} lists runs, but also has {sorted(unknown)[0]!r}: move it to `changes`.")
    runs = {}
    for name, own in content["runs"].items():
        own = dict(own or {})
        base = own.pop("recipe", content.get("recipe"))
        start = read_settings(find_recipe(base, "pretrain")) if base else {}
        runs[str(name)] = merge(merge(start, content.get("changes") or {}), own)
    return runs


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """Apply changes to settings, section by section; a value that is no section replaces what was there."""
    merged = dict(settings)
    for name, value in changes.items():
        section = merged.get(name)
        merged[name] = merge(section, value) if isinstance(section, dict) and isinstance(value, dict) else value
    return merged
