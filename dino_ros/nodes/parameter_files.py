"""The files that are made from the parameter tables: config/*.yaml of the nodes, docs/parameters.md.

Write them again after a change to a table: `python -m dino_ros.nodes.parameter_files`, in the root of the repository.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from dino_ros.files import write_whole
from dino_ros.masks.parameters import Rule
from dino_ros.nodes.parameters import (
    CAMERA_PARAMETERS,
    DEPTH_PARAMETERS,
    LEARNER_PARAMETERS,
    PERCEPTION_PARAMETERS,
    Parameter,
)


def perception_yaml() -> str:
    """config/perception.yaml: every parameter of the perception node at its default, explained."""
    rule = "# Those marked (live) may be changed while the node runs, the others while it is unconfigured."
    return _yaml("perception", rule, PERCEPTION_PARAMETERS)


def depth_yaml() -> str:
    """config/depth.yaml: every parameter of the depth node at its default, explained."""
    return _yaml("depth", "# They may be changed while the node is unconfigured.", DEPTH_PARAMETERS)


def learner_yaml() -> str:
    """config/learner.yaml: every parameter of the learner node at its default, explained."""
    rule = "# Those marked (live) may be changed while the node runs, the others while it is unconfigured."
    return _yaml("learner", rule, LEARNER_PARAMETERS)


def _yaml(node: str, rule: str, rows: Sequence[Parameter]) -> str:
    lines = [
        f"# Parameters of the {node} node, at their defaults. Made by `python -m dino_ros.nodes.parameter_files`.",
        rule,
        f"/**/{node}:",
        "  ros__parameters:",
    ]
    for row in rows:
        text = " ".join([*(["(live)"] if row.live else []), row.rule.description, *_values(row.rule)])
        lines += textwrap.wrap(text, 100, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {row.name}: {json.dumps(row.default)}")
    return "\n".join(lines) + "\n"


def parameters_page() -> str:
    """docs/parameters.md: the parameters of the nodes as tables."""
    return "\n".join(
        [
            "# Parameters",
            "",
            "Made from `dino_ros/nodes/parameters.py` and `dino_ros/masks/parameters.py` by",
            "`python -m dino_ros.nodes.parameter_files`. On a running node, `ros2 param describe NODE NAME` says the",
            "same. Parameters for the QoS of each topic: [transport.md](transport.md#quality-of-service).",
            "",
            "## Perception node",
            "",
            "Live parameters may be changed while the node runs, the others while it is unconfigured.",
            "",
            *_table(PERCEPTION_PARAMETERS),
            "",
            "## Depth node",
            "",
            "They may be changed while the node is unconfigured. What it does: [depth.md](depth.md).",
            "",
            *_table(DEPTH_PARAMETERS),
            "",
            "## Learner node",
            "",
            "What it does: [howto/learn_on_the_robot.md](howto/learn_on_the_robot.md).",
            "",
            *_table(LEARNER_PARAMETERS),
            "",
            "## Camera node",
            "",
            "All are read once, at the start.",
            "",
            *_table(CAMERA_PARAMETERS),
            "",
        ]
    )


def _table(rows: Sequence[Parameter]) -> list[str]:
    lines = ["| Parameter | Default | Live | Meaning |", "|---|---|---|---|"]
    for row in rows:
        meaning = " ".join([row.rule.description, *_values(row.rule)])
        live = "yes" if row.live else ""
        lines.append(f"| `{row.name}` | `{json.dumps(row.default)}` | {live} | {meaning} |")
    return lines


def _values(rule: Rule) -> list[str]:
    """A sentence with the values that a rule allows, if it limits them."""
    if rule.choices:
        return [f"One of {', '.join(rule.choices)}."]
    return [f"From {rule.bounds[0]} to {rule.bounds[1]}."] if rule.bounds else []


FILES = {
    "config/perception.yaml": perception_yaml,
    "config/depth.yaml": depth_yaml,
    "config/learner.yaml": learner_yaml,
    "docs/parameters.md": parameters_page,
}
"""Path in the repository, and what makes its content."""

if __name__ == "__main__":
    for path, make in FILES.items():
        write_whole(Path(path), make().encode())
