"""`dino-train --help` and that of every command answer without importing torch, which takes seconds."""

import subprocess
import sys

import pytest

pytest.importorskip("jsonargparse")

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


def test_help_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("--near_duplicate_threshold", "--dino.help", "--comparison.size"):
        assert name in done.stdout
