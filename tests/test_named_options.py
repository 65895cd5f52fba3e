"""Options that messages, help texts and docs name exist."""

import argparse
import ast
import dataclasses
import re
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

import dino_ros.cli
import dino_train.cli
from dino_train.config import ComparisonConfig, EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes import RECIPES
from dino_train.recipes.files import parts

ROOT = Path(__file__).resolve().parents[1]
ANOTHER_PROGRAMS = {
    "--clock",  # ros2 bag play
    "--dst",  # rosbags-convert
    "--dst-storage",
    "--nproc-per-node",  # torchrun
    "--ros-args",
    "--shm-size",  # docker
    "--src",  # rosbags-convert
}


def options() -> set[str]:
    """Every option of every command, those of sections included."""
    found = {"--help"}
    for half in (dino_ros, dino_train):
        main, commands = half.cli.parsers()
        for parser in (main, *commands.values(), *evaluations(commands)):
            found |= {name for action in parser._actions for name in action.option_strings}
    sections = {name: kind for recipe in RECIPES.values() for name, kind in parts(recipe).items()}
    sections |= {"comparison": ComparisonConfig, "evaluation": EvaluationConfig}
    sections |= {"machine": MachineConfig, "slurm": SlurmConfig}
    for section, kind in sections.items():
        found |= {f"--{section}", f"--{section}.help"}
        found |= {f"--{section}.{field.name}" for field in dataclasses.fields(kind)}
    return found


def evaluations(commands: dict[str, argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    """The parsers of the evaluations."""
    choices = [action.choices for action in commands["evaluate"]._actions] if "evaluate" in commands else []
    return [parser for named in choices if isinstance(named, dict) for parser in named.values()]


def texts(file: Path) -> list[str]:
    """Every string of several words in a file of Python, docstrings among them, without the values that fill it."""
    nodes = ast.walk(ast.parse(file.read_text()))
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in strings if " " in text.strip()]


@pytest.mark.parametrize("package", ["dino_ros", "dino_train"])
def test_options_that_are_named_exist(package: str) -> None:
    known = options() | ANOTHER_PROGRAMS
    unknown = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in (ROOT / package).rglob("*.py")
        for text in texts(file)
        for name in re.findall(r"(?<![\w(-])(--[a-z][\w.-]*[a-z\d])(?!:)\b", text)
        if name not in known
    }
    assert not unknown
