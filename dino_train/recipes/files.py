"""Recipes from YAML files, the command line and checkpoints. The section they contain tells the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from dino_ros.errors import UserError
from dino_train.recipes import RECIPES, DistillRecipe, PretrainRecipe, Recipe

SHIPPED = ("config", "share/dino_ros/config")
"""Where the folders of recipes are: in the source tree, or under the prefix of an installation."""
MAX_BYTES = 1_000_000
"""Of a file of settings, which needs a few thousand."""
MAX_DEPTH = 20
"""Of what a file of settings nests."""
BASES: dict[str, type[Recipe]] = {"pretrain": PretrainRecipe, "distill": DistillRecipe}
"""What the recipes of each command share; `config/` has a folder for each command."""


def add_recipe_arguments(parser: ArgumentParser, command: str) -> None:
    """Add options for every setting of a command's recipes; the methods' sections are None unless given."""
    parser.add_class_arguments(BASES[command])
    for method, section in sections(command).items():
        text = f"train by this method: --{method} {{}} takes its defaults; --{method}.help explains its settings"
        parser.add_argument(f"--{method}", type=section | None, default=None, help=text)


def recipe_from_options(options: Mapping[str, Any], command: str) -> Recipe:
    """Recipe from those options. Raises UserError if they contain the sections of several methods."""
    names = [*(field.name for field in dataclasses.fields(BASES[command])), *sections(command)]
    values = {name: options[name] for name in names if options[name] is not None}
    return recipe_type(values)(**values)


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe from the dictionary that `dataclasses.asdict` makes of it."""
    kind = recipe_type(values)
    built = {name: part(**values[name]) for name, part in parts(kind).items() if name in values}
    return kind(**{**values, **built})


def recipe_type(values: Mapping[str, Any]) -> type[Recipe]:
    """Recipe class of the section among these values. Raises UserError if there are several."""
    methods = [name for name in RECIPES if values.get(name) is not None]
    if len(methods) > 1:
        raise UserError(
            f"The recipe has sections of several methods, {' and '.join(methods)}: keep one; `{methods[0]}: null` or "
            f"--{methods[0]} null removes a section that comes from another file."
        )
    return RECIPES[methods[0] if methods else next(iter(RECIPES))]


def sections(command: str) -> dict[str, type]:
    """Dataclasses of the methods' sections, by method, for a command that has several methods."""
    base = BASES[command]
    kinds = [kind for kind in RECIPES.values() if issubclass(kind, base) and kind is not base]
    return {kind.method: parts(kind)[kind.method] for kind in kinds}


def parts(kind: type[Recipe]) -> dict[str, type]:
    """Dataclasses that a recipe consists of, by name."""
    made: dict[str, Any] = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    return {name: part for name, part in made.items() if isinstance(part, type) and dataclasses.is_dataclass(part)}


def find_recipe(name_or_path: str, *kinds: str) -> Path:
    """Return a path if it is a file, else the shipped recipe of that name from the folders `kinds` of `config/`.

    Raises UserError, listing the names, if there is neither.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    # The parents of this file include the source tree, or the prefix that pip or colcon installed into.
    above = Path(__file__).resolve().parents
    folders = [parent / config / kind for kind in kinds for parent in above for config in SHIPPED]
    shipped = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise UserError(
        f"There is no recipe {name_or_path!r}: give the path of a YAML file or one of these names: "
        f"{', '.join(shipped)}."
    )


def load_recipe(name_or_path: str, command: str = "pretrain") -> Recipe:
    """Read a recipe by its path or by its name if it is shipped; settings that it leaves out have their defaults.

    Raises UserError as `find_recipe`, `read_settings` and `parse_recipe` do.
    """
    path = find_recipe(name_or_path, command)
    return parse_recipe(read_settings(path), str(path), command)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; raises UserError for anything else.

    References within the file are refused, since a kilobyte of them can stand for gigabytes, and so is deep nesting.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is too large for a file of settings: give one of less than {MAX_BYTES} bytes.")
        text = path.read_text(encoding="utf-8")
        check_shape(path, yaml.parse(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for text that is not UTF-8, or impossible dates
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no settings: see config/pretrain/ and config/compare/ for examples.")
    return content


def check_shape(path: Path, events: Iterable[yaml.Event]) -> None:
    """Raise UserError for a YAML file, parsed to events, that refers to parts of itself or is nested deeply."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} refers to parts of itself (*name), which settings may not: write them out.")
        if depth > MAX_DEPTH:
            raise UserError(f"{path} is nested more than {MAX_DEPTH} deep, as no settings are: give another file.")


def parse_recipe(values: Mapping[str, Any], name: str, command: str = "pretrain") -> Recipe:
    """Recipe from the content of a YAML file. Raises UserError, naming `name`, for settings that are wrong."""
    parser = ArgumentParser(exit_on_error=False)
    add_recipe_arguments(parser, command)
    try:
        options = parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise UserError(f"{name} is not a recipe: {' '.join(str(error).split())}") from error
    return recipe_from_options(options, command)
