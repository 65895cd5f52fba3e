"""The help of commands: what stands in it, and that it answers at once."""

import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("jsonargparse")

import dino_ros.cli
import dino_train.cli
from dino_train.commands.evaluate import EVALUATIONS

HELP = """
import sys

from dino_train.cli import COMMANDS, run

for arguments in [["--help"], *([command, "--help"] for command in COMMANDS)]:
    try:
        run(arguments)
    except SystemExit as ended:
        assert not ended.code, arguments
    assert "torch" not in sys.modules, arguments
"""


@pytest.mark.parametrize("name", dino_ros.cli.COMMANDS)
def test_help_of_dino_ros_explains_each_option_and_gives_an_example_that_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser, commands = dino_ros.cli.parsers()
    help = commands[name].format_help()
    for action in commands[name]._actions:
        assert action.help
        if action.default not in (None, False, "==SUPPRESS=="):
            assert f"(default: {action.default})" in re.sub(r"\s+", " ", help), action.dest
    (example,) = re.findall(r"^    (dino-ros .*)$", help, re.MULTILINE)
    assert parser.parse_args(shlex.split(example)[1:]).run is dino_ros.cli.COMMANDS[name][0].run
    assert max(map(len, help.splitlines())) <= 80


def test_help_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("--near_duplicate_threshold", "--dino.help", "--comparison.size"):
        assert name in done.stdout


@pytest.mark.parametrize("name", [*dino_train.cli.COMMANDS, *(f"evaluate {name}" for name in EVALUATIONS)])
def test_help_of_dino_train_explains_each_option_and_gives_an_example_that_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser, commands = dino_train.cli.parsers()
    command = EVALUATIONS[name.split()[1]][0].parser() if " " in name else commands[name]
    help = command.format_help()
    assert "type: " not in help
    for action in command._actions:
        assert action.help or action.choices  # of subcommands, whose help is theirs
        if isinstance(action.default, int | float):
            assert f"(default: {action.default})" in re.sub(r"\s+", " ", help), action.dest
    (example,) = re.findall(r"^    (dino-train .*)$", help, re.MULTILINE)
    arguments = shlex.split(example)[1:]
    assert arguments[: len(name.split())] == name.split() or name == "evaluate"
    assert parser.parse_args(dino_train.cli.arrange(arguments) if "--config" in arguments else arguments)
    assert max(map(len, (command.description or "").splitlines())) <= 80
