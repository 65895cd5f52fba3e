"""The package as colcon and ROS see it."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from dino_ros.student import DEFAULT_STUDENT

ROOT = Path(__file__).resolve().parents[1]


def test_colcon_builds_what_ros_needs(tmp_path: Path) -> None:
    pytest.importorskip("colcon_core")
    shutil.copytree(
        ROOT,
        tmp_path / "src" / "dino_ros",
        ignore=shutil.ignore_patterns(".*", "build", "install", "log", "runs", "demo_output", "*.egg-info"),
    )
    subprocess.run([sys.executable, "-m", "colcon", "build"], cwd=tmp_path, check=True, capture_output=True, text=True)
    prefix = tmp_path / "install" / "dino_ros"
    for executable in (
        "perception_node",
        "camera_node",
        "dino-ros",
        "dino-train",
        "crop_objects.py",
        "place_recognition.py",
    ):
        assert os.access(prefix / "lib" / "dino_ros" / executable, os.X_OK)
    share = prefix / "share" / "dino_ros"
    for file in (
        "package.xml",
        "launch/perception.launch.py",
        "launch/replay.launch.py",
        "config/perception.yaml",
        "config/fastdds.xml",
        "config/pretrain/robot_bag.yaml",
    ):
        assert (share / file).is_file(), file
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "dino_ros").is_file()
    package = next(prefix.glob("lib/python3*/site-packages/dino_ros"))
    for file in ("demo/fastdds_loopback.xml", "demo/table_bag/metadata.yaml"):
        assert (package / file).is_file(), file
    students = {file.name for file in (ROOT / "dino_ros" / "models").glob("*.onnx")}
    assert students == {file.name for file in (package / "models").glob("*.onnx")}
    assert f"{DEFAULT_STUDENT}.onnx" in students


def test_version_and_maintainer_are_those_of_package_xml() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    metadata = subprocess.run(
        [sys.executable, "setup.py", "--version", "--maintainer", "--maintainer-email", "--license"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    maintainer = package.find("maintainer")
    assert maintainer is not None
    version, name, email = package.findtext("version"), maintainer.text, maintainer.get("email")
    assert metadata.stdout.splitlines()[-4:] == [version, name, email, package.findtext("license")]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["authors"]) == (version, [{"name": name, "email": email}])
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("file", [*sorted(ROOT.glob(".github/**/*.yml")), ROOT / ".pre-commit-config.yaml"], ids=str)
def test_configuration_of_the_forge_is_yaml(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_the_loopback_profile_is_the_shipped_one_held_to_the_loopback() -> None:
    def transports(path: Path) -> dict[str, dict[str, str]]:
        tags = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
        found = ElementTree.parse(path).getroot().iter(f"{tags}transport_descriptor")
        return {
            t.findtext(f"{tags}type", ""): {e.tag.removeprefix(tags): (e.text or "").strip() for e in t} for t in found
        }

    shipped = transports(ROOT / "config" / "fastdds.xml")
    loopback = transports(ROOT / "dino_ros" / "demo" / "fastdds_loopback.xml")
    assert "interfaceWhiteList" in loopback["UDPv4"]
    del loopback["UDPv4"]["interfaceWhiteList"]
    assert loopback == shipped
    assert int(shipped["SHM"]["segment_size"]) == 32 * 2**20
    assert int(shipped["SHM"]["maxMessageSize"]) == 16 * 2**20


@pytest.mark.parametrize("variable", ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"])
def test_a_profile_of_the_users_own_is_kept(variable: str) -> None:
    from dino_ros.nodes.transport import PROFILE_VARIABLES, profile_environment

    assert profile_environment(Path("p.xml"), {variable: "mine.xml"}) == {}
    assert profile_environment(Path("p.xml"), {"OTHER": "x"}) == dict.fromkeys(PROFILE_VARIABLES, "p.xml")
