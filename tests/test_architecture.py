"""The walls between the package's rooms: who may import whom. docs/architecture.md quotes ORDER."""

import importlib
import inspect
from pathlib import Path

import pytest
from imports import PACKAGES, ROOT, ROS, imported_modules, module_file, python_files, third_party

import dino_ros

ORDER = {
    "dino_ros": (
        {"errors"},
        {"files", "external_weights"},
        {"student"},
        {"images"},
        {"masks", "messages", "taught"},
        {"backends", "depth"},
        {"perception"},
        {"exports", "learning", "view"},
        {"mining"},
        {"nodes"},
        {"demo", "doctor"},
        {"commands"},
        {"cli"},
    ),
    "dino_train": (
        {"ranges"},
        {"config", "recipes"},
        {"machine"},
        {"models", "data"},
        {"objectives"},
        {"evaluation"},
        {"runs"},
        {"training", "export"},
        {"compare"},
        {"commands"},
        {"cli"},
    ),
}
"""The rooms (folders and single files) of each package, lowest first: a room imports only from those below it."""

ROS_ROOMS = {"nodes", "demo"}
"""The rooms of dino_ros that may import ROS."""

TORCH = {"torch", "torchvision", "timm"}


def room(module: str) -> tuple[str, str]:
    """Package and room of one of our modules; the room of a package itself is empty."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_docs_quote_the_order(package: str) -> None:
    order = " < ".join(", ".join(sorted(level)) for level in ORDER[package])
    assert f"- `{package}`: {order}\n" in (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_only_from_rooms_below_it(package: str) -> None:
    level = {name: number for number, names in enumerate(ORDER[package]) for name in names}
    for file in python_files(package):
        ours = room(module_of(file))[1]
        if ours in {"", "__main__"}:
            continue  # the package's public names, and the door to its command
        assert ours in level, f"{module_of(file)}: give {ours} a place in ORDER"
        for module in imported_modules(file):
            other_package, other = room(module)
            if other_package == package and other != ours:
                assert level.get(other, 99) < level[ours], f"{module_of(file)} imports {module}, which is not below it"


def test_dino_ros_imports_ros_only_in_its_nodes_and_demo() -> None:
    for file in python_files("dino_ros"):
        if room(module_of(file))[1] not in ROS_ROOMS:
            assert not third_party(file) & ROS, module_of(file)


def test_dino_ros_imports_neither_torch_nor_dino_train() -> None:
    for file in python_files("dino_ros"):
        tops = {module.partition(".")[0] for module in imported_modules(file)}
        assert not tops & {"dino_train", *TORCH}, module_of(file)


def test_dino_train_reaches_no_ros() -> None:
    for file in python_files("dino_train"):
        assert not reached(file) & ROS, f"{module_of(file)} reaches {sorted(reached(file) & ROS)}"


def test_recipes_reach_no_torch() -> None:
    for file in python_files("dino_train/config.py", "dino_train/recipes"):
        assert not reached(file) & TORCH, module_of(file)


def reached(file: Path) -> set[str]:
    """Modules of others that a file imports, itself or through modules of ours."""
    waiting, seen = {file}, set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        ours = {module_file(module) for module in imported_modules(file)}
        waiting |= {other for other in ours if other and other not in seen}
    return {name for file in seen for name in third_party(file)}


def test_every_ros_package_is_known_as_one() -> None:
    """One that ROS does not list would slip through the walls."""
    for file in python_files(*PACKAGES, "launch", "examples"):
        like_ros = {name for name in third_party(file) if name.endswith("_msgs") or name.startswith(("rcl", "ament"))}
        assert like_ros <= ROS, file


@pytest.mark.parametrize("name", dino_ros.__all__)
def test_public_names_can_be_imported_and_say_what_they_are(name: str) -> None:
    public = getattr(dino_ros, name)
    assert public is getattr(importlib.import_module(public.__module__), name)
    assert inspect.getdoc(public)
