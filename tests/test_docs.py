"""The documentation: its links, the files, settings and command lines that it names."""

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

import jsonargparse
import yaml

import dino_ros.cli
import dino_train.cli
from dino_train.config import ComparisonConfig, EvaluationConfig, MachineConfig, SlurmConfig
from dino_train.recipes import RECIPES
from dino_train.recipes.files import parts

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "dino_ros/models/*.md")
DOCS = sorted(path.relative_to(ROOT).as_posix() for name in NAMES for path in ROOT.glob(name))
PRESENT = [name for name in DOCS if name != "CHANGELOG.md"]  # which names what is gone, too
FOLDERS = "benchmarks|config|dino_ros|dino_train|docs|examples|launch|tests"
OTHER_SETTINGS = {
    "comparison": ComparisonConfig,
    "evaluation": EvaluationConfig,
    "machine": MachineConfig,
    "slurm": SlurmConfig,
}
FILE_ENDINGS = {"json", "md", "png", "py", "yaml"}


class Parsed(Exception):
    """A command line was understood."""


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if link.startswith("https://"):
            continue
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PRESENT)
def test_files_that_are_named_exist(name: str) -> None:
    missing = []
    for line in (ROOT / name).read_text().splitlines():
        folder = ROOT
        for full, bare in re.findall(rf"(?<![\w./~)-])((?:{FOLDERS})/[\w./-]*)|`(\w+\.py)`", line):
            path = ROOT / full.rstrip(".") if full else folder / bare  # a bare name is in the folder named before it
            folder = path if path.is_dir() else path.parent
            if not path.exists():
                missing.append(full or bare)
    assert not missing


def test_the_tree_of_the_architecture_is_that_of_the_repository() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named: list[Path] = []
    folder = ROOT
    for line in text[text.index("    dino_ros/  ") : text.index("Imports point down")].splitlines():
        inside = line.startswith("      ")
        entries = [(folder if inside else ROOT) / name for name in line.strip().split("  ")[0].split(", ")]
        folder = folder if inside else entries[0]
        named += entries
    rooms = {path.parent for half in ("dino_ros", "dino_train") for path in (ROOT / half).glob("*/__init__.py")}
    assert not [path for path in named if not path.exists()]
    assert rooms <= {*named}


@pytest.mark.parametrize("name", PRESENT)
def test_settings_that_are_named_exist(name: str) -> None:
    known = {part: kind for recipe in RECIPES.values() for part, kind in parts(recipe).items()} | OTHER_SETTINGS
    fields = {part: {field.name for field in dataclasses.fields(kind)} for part, kind in known.items()}
    named = re.findall(rf"(?<![\w/.])({'|'.join(fields)})\.(\w+)", (ROOT / name).read_text())
    assert not {f"{part}.{field}" for part, field in named if field not in fields[part] | FILE_ENDINGS | {"help"}}


@pytest.mark.parametrize("name", PRESENT)
def test_parameters_of_masks_that_are_named_exist(name: str) -> None:
    file = yaml.safe_load((ROOT / "config" / "perception.yaml").read_text())
    parameters = file["/**/perception"]["ros__parameters"].keys()
    assert {*re.findall(r"`(mask_[a-z_]+)", (ROOT / name).read_text())} <= parameters | {"mask_"}


def command_lines() -> Iterator[tuple[str, str]]:
    """Document and command line, for every line of code that runs one of this package's commands."""
    for name in PRESENT:
        for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines():
            found = re.match(r"    (?:.*\s)?(dino-ros|dino-train|-m dino_train) (.*)", line)
            if found and "EVALUATION" not in line:
                yield name, f"{found[1].replace('-m dino_train', 'dino-train')} {found[2]}"


@pytest.mark.parametrize(("name", "line"), [*command_lines()])
def test_command_lines_are_understood(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsing(kind: type[argparse.ArgumentParser]) -> None:
        original = kind.parse_args

        def parse_args(parser: argparse.ArgumentParser, *arguments: object, **options: object) -> object:
            parsed = original(parser, *arguments, **options)
            if parser.prog in ("dino-ros", "dino-train"):
                raise Parsed
            return parsed

        monkeypatch.setattr(kind, "parse_args", parse_args)

    parsing(argparse.ArgumentParser)
    parsing(jsonargparse.ArgumentParser)
    program, *arguments = shlex.split(line, comments=True)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            (dino_ros.cli if program == "dino-ros" else dino_train.cli).main()
    except Parsed:
        return
    except SystemExit:
        pass
    pytest.fail(f"{name}: {line}\n{said.getvalue()}")


def test_commands_that_are_mentioned_exist() -> None:
    known = {"dino-ros": {*dino_ros.cli.COMMANDS}, "dino-train": {*dino_train.cli.COMMANDS}}
    for name in PRESENT:
        for program, command in re.findall(r"`(dino-ros|dino-train) ([a-z]+)", (ROOT / name).read_text()):
            assert command in known[program], f"{name}: {program} {command}"
