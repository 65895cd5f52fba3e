"""The package as colcon and ROS see it."""

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
import yaml

from dino_ros.student import DEFAULT_STUDENT

ROOT = Path(__file__).resolve().parents[1]
MADE = (".*", "build", "install", "log", "runs", "demo_output", "bench_output", "*.egg-info", "__pycache__")
"""What the root of the repository may hold beside its sources."""
VERSION = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")


def copy_sources(folder: Path) -> None:
    """What a clone holds; building leaves its files there, and not in the repository."""
    made, cached = shutil.ignore_patterns(*MADE), shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT, folder, ignore=lambda path, names: (made if Path(path) == ROOT else cached)(path, names))


def test_colcon_builds_what_ros_needs(tmp_path: Path) -> None:
    pytest.importorskip("colcon_core")
    copy_sources(tmp_path / "src" / "dino_ros")
    subprocess.run([sys.executable, "-m", "colcon", "build"], cwd=tmp_path, check=True, capture_output=True, text=True)
    prefix = tmp_path / "install" / "dino_ros"
    for executable in (
        "perception_node",
        "camera_node",
        "dino-ros",
        "dino-train",
        "depth_node",
        "learner_node",
        "crop_objects.py",
        "grasp_points.py",
        "place_recognition.py",
    ):
        assert os.access(prefix / "lib" / "dino_ros" / executable, os.X_OK)
    share = prefix / "share" / "dino_ros"
    for file in (
        "package.xml",
        "launch/perception.launch.py",
        "launch/replay.launch.py",
        "launch/depth.launch.py",
        "launch/learn.launch.py",
        "launch/grasp_points.launch.xml",
        "config/perception.yaml",
        "config/depth.yaml",
        "config/learner.yaml",
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


def files(*folders: str) -> set[str]:
    """Paths of all files under these folders of the repository."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_a_wheel_of_the_source_distribution_works_in_an_empty_environment(tmp_path: Path) -> None:
    """One test, since each step takes what the one before it made."""
    source, built, home = tmp_path / "clone", tmp_path / "built", tmp_path / "environment"
    copy_sources(source)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(built)!r})", cwd=source)
    with tarfile.open(built / f"dino_ros-{VERSION}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"dino_ros-{VERSION}"
    assert not [unpacked / name for name in ("tests", "benchmarks", "docs") if (unpacked / name).exists()]

    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, unpacked)
    with zipfile.ZipFile(built / f"dino_ros-{VERSION}-py3-none-any.whl") as archive:
        entries = archive.infolist()
    shared = f"dino_ros-{VERSION}.data/data/share/dino_ros/"
    code = {entry.filename for entry in entries if entry.filename.startswith(("dino_ros/", "dino_train/"))}
    assert code == files("dino_ros", "dino_train")
    data = {entry.filename.removeprefix(shared) for entry in entries if entry.filename.startswith(shared)}
    assert data == files("config", "launch") | {"package.xml"}
    assert {entry.filename.partition("/")[0] for entry in entries} == {
        *("dino_ros", "dino_train", f"dino_ros-{VERSION}.data", f"dino_ros-{VERSION}.dist-info"),
    }
    large = [entry.CRC for entry in entries if entry.file_size > 100_000]
    assert len(set(large)) == len(large), "a large file is in the wheel twice"

    venv.create(home, symlinks=True)
    scripts, python = home / "bin", home / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", built / f"dino_ros-{VERSION}-py3-none-any.whl")
    # The dependencies are those of the tests. In folders that a .pth file names, no .pth file is read, so that an
    # editable installation does not get in the way.
    (packages,) = home.glob("lib/python3*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(others))
    where = "import dino_ros, importlib.metadata as m; print(dino_ros.__file__, m.version('dino_ros'))"
    assert run(python, "-c", where).split() == [str(packages / "dino_ros" / "__init__.py"), VERSION]
    assert DEFAULT_STUDENT in run(scripts / "dino-ros", "info")
    run(python, "-c", "from dino_ros import Perceiver")
    if importlib.util.find_spec("jsonargparse"):
        assert "pretrain" in run(scripts / "dino-train", "--help")


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


def test_ament_flake8_allows_lines_as_long_as_ruff_does() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert f"line-length = {settings['flake8']['max-line-length']}\n" in (ROOT / "pyproject.toml").read_text()


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
    from dino_ros.nodes.transport import profile_environment, variables_to_set

    assert profile_environment(Path("p.xml"), {variable: "mine.xml"}) == {}
    assert profile_environment(Path("p.xml"), {"OTHER": "x"}) == dict.fromkeys(variables_to_set(), "p.xml")
