"""What a comparison runs: recipes by name, from recipe files and from files that list runs.

A file that lists runs has `runs`, changes to a recipe by the name of the run; `recipe`, the name or path of the recipe
that they change, for all runs or in a run for that one; and `changes`, to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dino_ros.errors import UserError
from dino_train.recipes import Recipe
from dino_train.recipes.files import find_recipe, parse_recipe

Settings = dict[str, Any]
KEYS = {"recipe", "changes", "runs"}


def read_runs(names_or_paths: Sequence[str]) -> dict[str, Recipe]:
    """The recipes to run, by the names of the runs: a recipe's own, or those in a file that lists runs.

    Raises UserError for what is neither, for a name that comes twice, and for settings that a recipe does not have.
    """
    recipes: dict[str, Recipe] = {}
    for given in names_or_paths:
        path = find_recipe(given, "compare", "pretrain")
        for name, values in runs_of(path).items():
            if name in recipes or Path(name).name != name:
                raise UserError(f"{path} has a run {name!r}: each needs a name of its own that a folder can have.")
            recipes[name] = parse_recipe(values, f"{name} of {path}")
            recipes[name].check()
    return recipes


def runs_of(path: Path) -> dict[str, Settings]:
    """The settings of the runs that a file says, by name; of a recipe there is one."""
    content = read_settings(path)
    if "runs" not in content:
        return {path.stem: content}
    if unknown := content.keys() - KEYS:
        raise UserError(f"{path} lists runs and has {sorted(unknown)[0]!r} too: put settings of all runs in `changes`.")
    runs = {}
    for name, own in content["runs"].items():
        own = dict(own or {})
        base = own.pop("recipe", content.get("recipe"))
        start = read_settings(find_recipe(base, "pretrain")) if base else {}
        runs[str(name)] = merge(merge(start, content.get("changes") or {}), own)
    return runs


def read_settings(path: Path) -> Settings:
    """A YAML file of settings."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no settings: see config/pretrain/ and config/compare/ for examples.")
    return content


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """Settings with some changed, section by section."""
    merged = dict(settings)
    for name, value in changes.items():
        section = merged.get(name)
        merged[name] = merge(section, value) if isinstance(section, dict) and isinstance(value, dict) else value
    return merged
