"""The reference pages of the site, made from the code: topics, commands, recipes, Python names. PAGES lists them."""

from __future__ import annotations

import dataclasses
import os
import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import dino_ros
import dino_ros.cli
import dino_train.cli
from dino_ros.masks.parameters import RULES
from dino_ros.nodes.camera_topics import NEEDS
from dino_ros.nodes.topics import topics_table
from dino_train.commands.evaluate import EVALUATIONS
from dino_train.commands.parser import CommandParser
from dino_train.config import SlurmConfig
from dino_train.recipes.files import BASES, load_recipe, sections

ROOT = Path(__file__).resolve().parents[2]
NO_DEFAULT = {"", "null", "[]", "{}"}
"""Defaults that say nothing: what they stand for is in the option's text."""


def topics_page() -> str:
    """The perception node's topics, and what is computed for each."""
    needs = [f"| `{topic}` | {', '.join(sorted(needs))} |" for topic, needs in NEEDS.items()]
    return "\n".join(
        [
            "# Topics",
            "",
            "Of the perception node, with its default namespace and one camera without a name. With named cameras the "
            "results are under `/dino/<camera>/`. Each result carries the header of the frame that it was made from. "
            "By default they are reliable and volatile, with a depth of 5.",
            "",
            "It subscribes to `image` (`sensor_msgs/Image`), or to `image/compressed` "
            "(`sensor_msgs/CompressedImage`) if the parameter `image_transport` says so, while somebody subscribes to "
            "a result.",
            "",
            topics_table(),
            "",
            "## What is computed",
            "",
            "Only what the topics with subscribers need:",
            "",
            "| topic | needs |",
            "|---|---|",
            *needs,
            "",
        ]
    )


def dino_ros_page() -> str:
    """Every command of `dino-ros` with its options."""
    _, parsers = dino_ros.cli.parsers()
    purposes = {name: purpose for name, (_, purpose) in dino_ros.cli.COMMANDS.items()}
    return commands_page("dino-ros", parsers, purposes)


def dino_train_page() -> str:
    """Every command of `dino-train` but the evaluations, with its options and the methods' settings."""
    _, parsers = dino_train.cli.parsers()
    purposes = {name: purpose for name, (_, purpose) in dino_train.cli.COMMANDS.items()}
    return commands_page("dino-train", {n: parser for n, parser in parsers.items() if n != "evaluate"}, purposes)


def evaluations_page() -> str:
    """Every evaluation with its options."""
    dino_train.cli.parsers()  # which sets how jsonargparse reads docstrings
    parsers = {name: module.parser() for name, (module, _) in EVALUATIONS.items()}
    return commands_page("dino-train evaluate", parsers, {name: purpose for name, (_, purpose) in EVALUATIONS.items()})


def commands_page(program: str, parsers: Mapping[str, ArgumentParser], purposes: Mapping[str, str]) -> str:
    """A page with a table of commands, and a section with the options of each."""
    lines = [f"# {program}", "", "| command | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{slug(program, name)}) | {markdown(purposes[name])} |" for name in parsers]
    lines += ["", f"The same as `{program} COMMAND --help` says in a terminal.", ""]
    for name, parser in parsers.items():
        lines += [f"## {program} {name}", "", markdown((parser.description or sentence(purposes[name])).strip()), ""]
        lines += option_tables(parser)
        if program == "dino-train" and name in BASES:
            for part, settings in {"slurm": SlurmConfig, **sections(name)}.items():  # whose help is a page of its own
                nested = CommandParser()
                nested.add_class_arguments(settings, part)
                lines += option_tables(nested)
    return "\n".join(lines)


def slug(program: str, name: str) -> str:
    """Anchor of a command's section."""
    return f"{program} {name}".replace(" ", "-")


def option_tables(parser: ArgumentParser) -> list[str]:
    """Lines of a table of options for each group of a parser's help, from that help."""
    with mock.patch.dict(os.environ, COLUMNS="100000"):  # so that no text is wrapped
        text = parser.format_help()
    groups: dict[str, list[str]] = {}
    for title, body in re.findall(r"^(\S.*):\n((?:  .*\n?)+)", text, re.MULTILINE):
        heading = "" if title in ("positional arguments", "options") else f"**{sentence(title)}**"
        for name, meaning in re.findall(r"^  (\S.*?)(?:\n {10,}|  +)(\S.*)$", body, re.MULTILINE):
            if not name.endswith("help"):
                groups.setdefault(heading, []).append(option_row(name, meaning))
    lines: list[str] = []
    for heading, rows in groups.items():
        lines += [*([heading, ""] if heading else []), "| option | default | meaning |", "|---|---|---|", *rows, ""]
    return lines


def option_row(name: str, text: str) -> str:
    """Row of an option: its name as the help has it, with metavar or choices, and its text."""
    choices = re.search(r"\{(.*?)\}", name)
    meaning, default = text, ""
    if found := re.search(r" \(default: ((?:[^()]|\([^()]*\))*)\)", text):
        meaning = text[: found.start()] + text[found.end() :]
        in_words = re.match(r"[^(].* ", found[1])
        default = found[1] if in_words else "" if found[1] in NO_DEFAULT else f"`{found[1]}`"
    if choices and choices[1] != "true,false":
        meaning = f"{meaning.rstrip('.')}. One of {choices[1].replace(',', ', ')}."
    first = name.split()[0].rstrip(",")  # Python 3.13 names the metavar of an option after the last of its names alone
    return f"| `{first}` | {default} | {markdown(meaning)} |"


def markdown(text: str) -> str:
    """Plain text as Markdown, also within a table; what stands in backticks stays as it is."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([*\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def sentence(text: str) -> str:
    """Text with a capital letter and a full stop."""
    text = text[0].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def recipes_page() -> str:
    """Every recipe and comparison that ships: its comment, and what it changes."""
    lines = [
        "# Recipes",
        "",
        "`--config NAME` takes one of these, or the path of a YAML file of your own. What is not listed is as by "
        "default; options on the command line override the recipe.",
        "",
    ]
    for command, title in (("pretrain", "dino-train pretrain"), ("distill", "dino-train distill")):
        lines += [f"## {title}", ""]
        for path in sorted((ROOT / "config" / command).glob("*.yaml")):
            lines += [f"### {path.stem}", "", comment(path), "", *recipe_table(path, command), ""]
    lines += ["## dino-train compare", ""]
    for path in sorted((ROOT / "config" / "compare").glob("*.yaml")):
        body = re.sub(r"\A(#.*\n)+", "", path.read_text())
        lines += [f"### {path.stem}", "", comment(path), "", "```yaml", body.rstrip(), "```", ""]
    return "\n".join(lines)


def comment(path: Path) -> str:
    """The comment at the top of a YAML file, as Markdown: commands in it are indented, as they are there."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return re.sub(r"\n((?:    .*(?:\n|$))+)", r"\n\n\1\n", text).rstrip()


def recipe_table(path: Path, command: str) -> list[str]:
    """Lines of a table of what a recipe sets: value, default, and the file's comment."""
    recipe = load_recipe(path.stem, command)
    defaults = flat(dataclasses.asdict(type(recipe)()))
    comments: dict[str, str] = {}
    section = ""
    for line in path.read_text().splitlines():
        if found := re.match(r"( *)(\w+): *([^#]*?) *(?:# *(.*))?$", line):
            section = found[2] if not found[1] else section
            comments[f"{section}.{found[2]}" if found[1] else found[2]] = found[4] or ""
    lines = ["| setting | value | default | why |", "|---|---|---|---|"]
    for name, value in flat(yaml.safe_load(path.read_text())).items():
        default = "the same" if shown(value) == shown(defaults[name]) else shown(defaults[name])
        lines.append(f"| `{name}` | {shown(value)} | {default} | {markdown(comments.get(name, ''))} |")
    return lines


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        named |= {name: value} if inner is None else {f"{name}.{key}": entry for key, entry in inner.items()}
    return named


def shown(value: Any) -> str:
    """A setting's value as YAML has it."""
    if value is None or value == "":
        return ""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return f"`[{', '.join(f'{number:g}' for number in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def python_page() -> str:
    """The public names of `dino_ros`; mkdocstrings fills them in."""
    lines = [
        "# Python",
        "",
        "The public names of `dino_ros`, which need neither ROS nor torch. All others may move.",
        "",
    ]
    for name in dino_ros.__all__:
        lines += [f"::: dino_ros.{name}", *(mask_fields() if name == "MaskParameters" else []), ""]
    return "\n".join(lines)


def mask_fields() -> list[str]:
    """Lines of a table of the fields of MaskParameters, whose meanings are in their rules and not in the source."""
    lines = ["    options: {members: false}", "", "| field | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(dino_ros.MaskParameters):
        lines.append(f"| `{field.name}` | {shown(field.default)} | {markdown(RULES[field.name].description)} |")
    return lines


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/topics.md": topics_page,
    "docs/reference/dino_ros.md": dino_ros_page,
    "docs/reference/dino_train.md": dino_train_page,
    "docs/reference/dino_train_evaluate.md": evaluations_page,
    "docs/reference/recipes.md": recipes_page,
    "docs/reference/python.md": python_page,
}
"""Path in the site, and what makes its content."""
