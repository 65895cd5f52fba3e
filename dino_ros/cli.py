"""The command `dino-ros`."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from dino_ros.commands import annotate, bench, demo, doctor, engine, features, info, judge, novelty, search, teach, view
from dino_ros.errors import UserError
from dino_ros.files import unusable_file

DESCRIPTION = """\
Masks, attention and features of images by a vision transformer that learned
without labels (DINO): what the ROS 2 nodes compute, and what goes with them.
Start with `dino-ros demo`, which takes half a minute and needs no camera.
`dino-ros COMMAND --help` explains a command and when to change its options.

    dino-ros demo
"""
COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "demo": (demo, "play a recording, or a rendered table, through the nodes and draw the masks"),
    "info": (info, "show what a student file says of itself: what it is good for, size, source, license"),
    "doctor": (doctor, "look at what the node needs on this machine, and say what to do"),
    "bench": (bench, "measure how fast a student runs on this machine and where time goes"),
    "annotate": (annotate, "masks of recordings as labels for a detector, in COCO's format or YOLO's"),
    "features": (features, "features of recordings as Zarr or Parquet, to train policies from"),
    "search": (search, "find frames of recordings that hold something like a crop"),
    "novelty": (novelty, "mark what a recording shows that known ones never did"),
    "judge": (judge, "say whether a student finds objects better than another, without labels"),
    "engine": (engine, "build a student's TensorRT engine before the robot needs it"),
    "teach": (teach, "show pictures of an object, so that the node finds it by name"),
    "view": (view, "look at what a student sees, on a page in a browser"),
}
"""Modules with `DESCRIPTION`, `add_options` and `run`, and their line in `--help`."""


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and leaves the lines of descriptions as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False
        return action.help if says_nothing else super()._get_help_string(action)


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command line's parser, and that of each command by name."""
    parser = argparse.ArgumentParser(prog="dino-ros", description=DESCRIPTION, formatter_class=Help)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands = {}
    for name, (module, purpose) in COMMANDS.items():
        commands[name] = command = subcommands.add_parser(
            name, help=purpose, description=module.DESCRIPTION, formatter_class=Help
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
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
