"""What the package's files import, read from their source: nothing is imported to find out."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dino_ros", "dino_train")
ROS = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "tf2_ros",
    "vision_msgs",
}
"""Modules that come with ROS."""
STANDARD = sys.stdlib_module_names | {"compression"}
"""Python's own modules; `compression` came with 3.14."""


def python_files(*places: str) -> list[Path]:
    """The Python files of folders or files named relative to the repository."""
    return sorted(file for place in places for file in _under(ROOT / place))


def _under(place: Path) -> list[Path]:
    return list(place.rglob("*.py")) if place.is_dir() else [place]


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Full names of the modules that a file imports anywhere in it, submodules of our packages told apart from names.

    Counts `import_module("literal")` and pytest's `importorskip("literal")` too. Relative imports are refused: a full
    name says it all.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            found |= {_submodule(str(node.module), name.name) for name in node.names}
        elif isinstance(node, ast.Call) and _name(node.func) in {"import_module", "importorskip"}:
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    found.add(name)
    return frozenset(found)


def third_party(file: Path) -> set[str]:
    """Top-level modules that a file imports and that are neither Python's own nor ours."""
    tops = {module.partition(".")[0] for module in imported_modules(file)}
    return {top for top in tops if top not in STANDARD and top not in PACKAGES}


@cache
def module_file(module: str) -> Path | None:
    """The file of one of our modules, None for anybody else's."""
    path = ROOT.joinpath(*module.split("."))
    if module.partition(".")[0] not in PACKAGES:
        return None
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _submodule(module: str, name: str) -> str:
    return f"{module}.{name}" if module_file(f"{module}.{name}") else module


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
