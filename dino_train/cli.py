"""The command `dino-train`."""

from __future__ import annotations

import logging
import sys
import time
from types import ModuleType
from typing import NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from dino_ros.errors import UserError
from dino_ros.files import unusable_file
from dino_train.commands import compare, data, distill, evaluate, export, head, pretrain, report, select
from dino_train.commands.parser import CommandParser
from dino_train.commands.training_run import arrange
from dino_train.machine.rank import is_main
from dino_train.machine.threads import leave_busy_cores, sleep_soon
from dino_train.recipes.files import BASES

DESCRIPTION = """\
Train a vision transformer (ViT) on images of your robot, without labels, and
export it as the student file that dino_ros runs. In this order: `data`,
`pretrain`, `export`, `head`; `distill` for a smaller student, `evaluate` to
measure. `dino-train COMMAND --help` explains a command and when to change its
options.

    dino-train pretrain my_bag --config robot_bag --out runs/mine
"""
COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "data": (data, "show what training would see"),
    "select": (select, "pick the frames of recordings that differ most"),
    "pretrain": (pretrain, "train a ViT on images without labels"),
    "compare": (compare, "compare recipes on the same data and budget"),
    "distill": (distill, "distill a large ViT into a small student"),
    "export": (export, "export a student for dino_ros"),
    "head": (head, "add a foreground head to a student"),
    "evaluate": (evaluate, "evaluate features and masks"),
    "report": (report, "rewrite the report of a run"),
}
"""Modules with `parser` and `run`, and their line in `--help`."""
WITHOUT_MACHINE = {"export", "head", "evaluate"}
"""Commands that compute with torch, and have no `--machine.threads` by which training decides how many it takes."""
SECONDS_FOR_MAIN = 60.0
"""How long a process of `torchrun` that fails waits for the main one to fail, too, and to end it."""


class Once(logging.Filter):
    """Passes each message once: a command may open its data several times."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def main() -> None:
    """Run `dino-train`. A UserError prints one sentence and exits with code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger().handlers[0].addFilter(Once())
    logging.getLogger("dino_train").setLevel(logging.INFO)
    sleep_soon()
    try:
        run(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(unusable_file(error))
    except KeyboardInterrupt:
        sys.exit(130)


def fail(sentence: str) -> NoReturn:
    """Print a sentence and exit with code 2.

    Where all processes of `torchrun` fail for the same reason, the main one says it: torchrun ends the others at once.
    """
    if not is_main():
        time.sleep(SECONDS_FOR_MAIN)
    print(f"dino-train: {sentence}", file=sys.stderr)
    sys.exit(2)


def parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The command line's parser, and that of each command by name."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # --help shows the docstrings of fields
    parser = CommandParser(
        prog="dino-train",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    commands = {name: module.parser() for name, (module, _) in COMMANDS.items()}
    for name, (_, purpose) in COMMANDS.items():
        subcommands.add_subcommand(name, commands[name], help=purpose)
    evaluate.add_evaluations(commands["evaluate"])
    return parser, commands


def run(arguments: list[str]) -> None:
    """Run the command of a command line."""
    parser, _ = parsers()
    if arguments and arguments[0] in BASES:
        arguments = arrange(arguments)
    options = parser.instantiate(parser.parse_args(arguments))
    if options.command in WITHOUT_MACHINE:
        leave_busy_cores()
    COMMANDS[options.command][0].run(options[options.command])
