"""The command `dino-train`."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

from jsonargparse import ArgumentParser, set_parsing_settings

from dino_ros.errors import UserError
from dino_train.commands import compare, data, distill, evaluate, export, head, pretrain, report
from dino_train.recipes.files import find_recipe

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "data": (data, "show what training would see"),
    "pretrain": (pretrain, "train a ViT on images without labels"),
    "compare": (compare, "compare recipes on the same data and budget"),
    "distill": (distill, "distill a large ViT into a small student"),
    "export": (export, "export a student for dino_ros"),
    "head": (head, "add a foreground head to a student"),
    "evaluate": (evaluate, "evaluate features and masks"),
    "report": (report, "rewrite the report of a run"),
}
"""Modules with `parser` and `run`, and their line in `--help`."""


def main() -> None:
    """Run `dino-train`. A UserError prints one sentence and exits with code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dino_train").setLevel(logging.INFO)
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"dino-train: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> None:
    """Run the command of a command line."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help shows the docstrings of fields
    parser = ArgumentParser(
        prog="dino-train", description="Pretrain, distill, evaluate and export ViTs from images without labels."
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    parsers = {name: module.parser() for name, (module, _) in COMMANDS.items()}
    for name, (_, purpose) in COMMANDS.items():
        subcommands.add_subcommand(name, parsers[name], help=purpose)
    evaluate.add_evaluations(parsers["evaluate"])
    # jsonargparse only reads paths: replace the names of shipped recipes by theirs.
    arguments = [
        str(find_recipe(value, arguments[0])) if previous == "--config" else value
        for previous, value in zip(["", *arguments], arguments, strict=False)
    ]
    options = parser.instantiate(parser.parse_args(arguments))
    COMMANDS[options.command][0].run(options[options.command])
