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
    "pretrain": (pretrain, "learn from images, without labels"),
    "compare": (compare, "run several recipes on one budget, and compare them"),
    "distill": (distill, "teach a small student what a large one sees"),
    "export": (export, "write a student file for dino_ros"),
    "head": (head, "give a student a head that finds objects"),
    "evaluate": (evaluate, "score features and masks"),
    "report": (report, "write the report of a run again"),
}
"""Modules with `parser` and `run`, and what `--help` says of them."""


def main() -> None:
    """Run `dino-train`; bad input prints one sentence and exits with code 2."""
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
    """Parse the command line and do what it says."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the recipe's fields explain themselves in --help
    parser = ArgumentParser(
        prog="dino-train", description="Pretrain, evaluate and export DINO students from images without labels."
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    parsers = {name: module.parser() for name, (module, _) in COMMANDS.items()}
    for name, (_, purpose) in COMMANDS.items():
        subcommands.add_subcommand(name, parsers[name], help=purpose)
    evaluate.add_evaluations(parsers["evaluate"])
    # A recipe that ships may be given by its name: jsonargparse reads paths only.
    arguments = [
        str(find_recipe(value, arguments[0])) if previous == "--config" else value
        for previous, value in zip(["", *arguments], arguments, strict=False)
    ]
    options = parser.instantiate(parser.parse_args(arguments))
    COMMANDS[options.command][0].run(options[options.command])
