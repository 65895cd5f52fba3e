"""What the Dockerfile and the devcontainer name exists in this repository; nothing is built."""

import json
import re
import xml.etree.ElementTree as ElementTree

from imports import ROOT

DOCKERFILE = (ROOT / "docker" / "desktop.Dockerfile").read_text()


def copied() -> dict[str, str]:
    """Each path of the repository that is copied, and where to."""
    pairs = {}
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        pairs |= dict.fromkeys(sources, target)
    return pairs


def test_what_is_copied_exists_and_is_what_the_package_is_built_from() -> None:
    paths = copied()
    assert all((ROOT / path).exists() for path in paths)
    read_by_setup = {"package.xml", "setup.py", "setup.cfg", "README.md", "resource", "config", "launch", "examples"}
    assert read_by_setup | {"dino_ros", "dino_train"} <= paths.keys()


def test_it_launches_what_the_package_has() -> None:
    match = re.search(r"ros2 launch (\S+) ([\w.]+)", DOCKERFILE)
    assert match is not None
    assert match[1] == ElementTree.parse(ROOT / "package.xml").findtext("name")
    assert (ROOT / "launch" / match[2]).is_file()


def test_the_devcontainer_makes_what_the_makefile_has() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    goal = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
