"""The parser of every command: how `--help` looks."""

from __future__ import annotations

from argparse import Action, RawDescriptionHelpFormatter
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class CommandHelp(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves descriptions as they are written, and shows defaults that say something, but no types."""

    def _get_help_string(self, action: Action) -> str:
        left_out = ["type: %(type)s"]
        if action.default in (None, "", [], {}) or "(default: " in (action.help or ""):
            left_out.append("default: %(default)s")
        text = super()._get_help_string(action)
        for part in left_out:
            text = text.replace(f"{part}, ", "").replace(f", {part}", "").replace(f" ({part})", "")
        return text


class CommandParser(ArgumentParser):
    """A parser of jsonargparse with that help, as are those that it makes of itself for `--SECTION.help`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": CommandHelp, **options})
