"""What the Dockerfiles and the devcontainer name exists in this repository; nothing is built."""

import json
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from imports import ROOT

DOCKERFILES = sorted((ROOT / "docker").iterdir())


def copied(dockerfile: Path) -> dict[str, str]:
    """Each path of the repository that is copied, and where to."""
    pairs = {}
    for line in re.findall(r"^COPY (.+)$", dockerfile.read_text(), re.MULTILINE):
        *sources, target = line.split()
        pairs |= dict.fromkeys(sources, target)
    return pairs


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_what_the_package_is_built_from(dockerfile: Path) -> None:
    paths = copied(dockerfile)
    assert all((ROOT / path).exists() for path in paths)
    read_by_setup = {"package.xml", "setup.py", "setup.cfg", "README.md", "resource", "config", "launch", "examples"}
    assert read_by_setup | {"dino_ros", "dino_train"} <= paths.keys()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_it_is_built_by_its_own_name_and_launches_what_the_package_has(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert {ROOT / path for path in re.findall(r"docker build -f (\S+)", text)} == {dockerfile}
    match = re.search(r"ros2 launch (\S+) ([\w.]+)", text)
    assert match is not None
    assert match[1] == ElementTree.parse(ROOT / "package.xml").findtext("name")
    assert (ROOT / "launch" / match[2]).is_file()


def test_the_engines_of_a_pc_are_those_of_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    extras: dict[str, list[str]] = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: extras.update(arguments["extras_require"]))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    asked = {line.partition(";")[0] for line in extras["tensorrt-rtx"]}
    text = (ROOT / "docker" / "desktop.Dockerfile").read_text()
    assert [set(line.split()) for line in re.findall(r"'ENGINE=(.+?)'", text)] == [asked]
    assert re.findall(r"^ARG ENGINE=(\S+)$", text, re.MULTILINE) == ["openvino"]


def test_the_devcontainer_makes_what_the_makefile_has() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    goal = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
