"""The help of commands: what stands in it, and that it answers at once."""

import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("jsonargparse")

import dino_ros.cli

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
