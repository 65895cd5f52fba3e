"""Recipes from YAML files, from the command line and from checkpoints; the section that they have tells the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from dino_ros.errors import UserError
from dino_train.recipes import RECIPES, DistillRecipe, PretrainRecipe, Recipe

SHIPPED = ("config", "share/dino_ros/config")
"""Where the folders of recipes stand below the source tree, or below an installation's prefix."""
BASES: dict[str, type[Recipe]] = {"pretrain": PretrainRecipe, "distill": DistillRecipe}
"""What the recipes of each command have in common; `config/` has a folder for each."""


def add_recipe_arguments(parser: ArgumentParser, command: str) -> None:
    """Options for every setting of the recipes of a command; the sections of its methods are left out if not given."""
    parser.add_class_arguments(BASES[command])
    for method, section in sections(command).items():
        text = f"settings of {section.__name__.removesuffix('Config')}; --{method}.help lists them"
        parser.add_argument(f"--{method}", type=section | None, default=None, help=text)


def recipe_from_options(options: Mapping[str, Any], command: str) -> Recipe:
    """The recipe that those options say. Raises UserError where they have the sections of several methods."""
    names = [*(field.name for field in dataclasses.fields(BASES[command])), *sections(command)]
    values = {name: options[name] for name in names if options[name] is not None}
    return recipe_type(values)(**values)


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Rebuild the recipe that `dataclasses.asdict` wrote into a checkpoint; its own section tells its method."""
    kind = recipe_type(values)
    built = {name: part(**values[name]) for name, part in parts(kind).items() if name in values}
    return kind(**{**values, **built})


def recipe_type(values: Mapping[str, Any]) -> type[Recipe]:
    """The recipe class that has the section which is among these. Raises UserError where there are several."""
    methods = [name for name in RECIPES if values.get(name) is not None]
    if len(methods) > 1:
        raise UserError(
            f"The recipe is of several methods, {' and '.join(methods)}: keep the settings of one, and write "
            f"`{methods[0]}: null` (--{methods[0]} null) for one that comes from another file."
        )
    return RECIPES[methods[0] if methods else next(iter(RECIPES))]


def sections(command: str) -> dict[str, type]:
    """The dataclasses of the methods' own settings, by method, where a command has several methods."""
    base = BASES[command]
    kinds = [kind for kind in RECIPES.values() if issubclass(kind, base) and kind is not base]
    return {kind.method: parts(kind)[kind.method] for kind in kinds}


def parts(kind: type[Recipe]) -> dict[str, type]:
    """The dataclasses that a recipe is made of, by name."""
    made: dict[str, Any] = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    return {name: part for name, part in made.items() if isinstance(part, type) and dataclasses.is_dataclass(part)}


def find_recipe(name_or_path: str, *kinds: str) -> Path:
    """Return the file at a path, or the one of that name among those that ship for some kinds: folders in `config/`.

    Raises UserError that lists the names when there is neither.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    # Above this file stand the source tree, or the prefix that pip or colcon installed into.
    above = Path(__file__).resolve().parents
    folders = [parent / place / kind for kind in kinds for parent in above for place in SHIPPED]
    shipped = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise UserError(
        f"There is no recipe {name_or_path!r}: give the path of a YAML file or one of these names: "
        f"{', '.join(shipped)}."
    )


def load_recipe(name_or_path: str, command: str = "pretrain") -> Recipe:
    """Read a recipe, by its path or by the name of one that ships; what it does not set has its default.

    Raises UserError as `find_recipe` and `parse_recipe` do.
    """
    path = find_recipe(name_or_path, command)
    return parse_recipe(yaml.safe_load(path.read_text()) or {}, str(path), command)


def parse_recipe(values: Mapping[str, Any], name: str, command: str = "pretrain") -> Recipe:
    """The recipe that a YAML file says; `name` is what it is called in a UserError about a wrong setting."""
    parser = ArgumentParser(exit_on_error=False)
    add_recipe_arguments(parser, command)
    try:
        options = parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise UserError(f"{name} is no recipe: {' '.join(str(error).split())}") from error
    return recipe_from_options(options, command)
