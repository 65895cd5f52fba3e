"""The command `dino-ros`."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from dino_ros.commands import annotate, bench, demo, doctor, engine, features, info, view
from dino_ros.errors import UserError
from dino_ros.files import unusable_file

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "demo": (demo, "play a recording through the nodes and draw the masks"),
    "info": (info, "show a student file's description of itself"),
    "doctor": (doctor, "look at what the node needs on this machine, and say what to do"),
    "bench": (bench, "measure how fast a student runs on this machine and where time goes"),
    "annotate": (annotate, "masks of recordings as labels for a detector, in COCO's format or YOLO's"),
    "features": (features, "features of recordings as Zarr or Parquet, to train policies from"),
    "engine": (engine, "build a student's TensorRT engine before the robot needs it"),
    "view": (view, "look at what a student sees, on a page in a browser"),
}
"""Modules with `add_options` and `run`, and their line in `--help`."""


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command line's parser, and that of each command by name."""
    parser = argparse.ArgumentParser(prog="dino-ros", description="Self-supervised vision for robots.")
    subcommands = parser.add_subparsers(required=True)
    commands = {name: subcommands.add_parser(name, help=purpose) for name, (_, purpose) in COMMANDS.items()}
    for name, (module, _) in COMMANDS.items():
        module.add_options(commands[name])
        commands[name].set_defaults(run=module.run)
    return parser, commands


def main() -> None:
    """Run `dino-ros`; bad input prints one sentence and exits with code 2."""
    parser, _ = parsers()
    options = parser.parse_args()
    try:
        sys.exit(options.run(options))
    except UserError as error:
        print(f"dino-ros: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"dino-ros: {unusable_file(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
