"""What package.xml and setup.py ask for is what the code imports: nothing missing, nothing extra."""

import re
import runpy
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from imports import ROOT, ROS, python_files, third_party

ON_A_ROBOT = (
    "dino_ros",
    "launch",
    "examples/crop_objects.py",
    "examples/grasp_points.py",
    "examples/place_recognition.py",
)
"""What colcon installs for use on a robot. dino_train is for machines that train, and needs pip."""

ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "rosbags": "python3-rosbags-pip",
    "tf2_ros": "tf2_ros_py",
    "yaml": "python3-yaml",
}
"""Keys of modules whose packages are not named after them."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "backports": "backports.zstd",
    "colcon_core": "colcon-common-extensions",
    "cuda": "cuda-bindings",
    "cv2": "opencv-python-headless",
    "pybullet_data": "pybullet",
    "sklearn": "scikit-learn",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
"""Names on PyPI of modules that are called otherwise."""

EXTRAS = {
    "bench": {"matplotlib"},
    "openvino": {"openvino"},
    "tensorrt": {"tensorrt", "cuda"},
    "tensorrt-rtx": {"tensorrt_rtx", "cuda"},
    "quantize": {"nncf"},
    "simulation": {"pybullet", "pybullet_data"},
    "slurm": {"submitit"},
    "video": {"av"},
    "zarr": {"zarr"},
    "parquet": {"pyarrow"},
}
"""Modules that only those need who use the feature: each extra installs its own."""

IMPORTED_BY_OTHERS = {"onnxscript", "tensorboard"}
"""torch.onnx.export and torch.utils.tensorboard need them."""

TOOLS = {"mypy", "pytest-cov", "ruff", "setuptools", "types-pyyaml"}
"""What developers and tests run and no file imports."""

SITE = {"jsonargparse", "mkdocs-material", "mkdocstrings-python", "ruff"}
"""What makes the site and no file of it imports."""


def modules(*places: str) -> set[str]:
    return {name for file in python_files(*places) for name in third_party(file)}


def distributions(names: set[str]) -> set[str]:
    return {normalized(DISTRIBUTIONS.get(name, name)) for name in names}


def normalized(requirement: str) -> str:
    """The distribution that a requirement names, without its version and markers."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Distributions that setup.py asks for, by extra; the empty one is install_requires."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    by_extra = {"": given["install_requires"], **given["extras_require"]}
    return {extra: {normalized(line) for line in lines} for extra, lines in by_extra.items()}


OPTIONAL = set().union(*EXTRAS.values())


def test_package_xml_asks_for_what_a_robot_runs() -> None:
    asked = [element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")]
    expected = {ROSDEP_KEYS.get(name, name) for name in modules(*ON_A_ROBOT) - OPTIONAL}
    assert asked == sorted(expected)


def test_pip_installs_what_dino_ros_imports(requirements: dict[str, set[str]]) -> None:
    assert requirements[""] == distributions(modules("dino_ros") - ROS - OPTIONAL)


def test_the_extra_train_installs_what_dino_train_imports(requirements: dict[str, set[str]]) -> None:
    needed = modules("dino_train") - EXTRAS["quantize"] - EXTRAS["simulation"] - EXTRAS["slurm"]
    assert requirements["train"] == distributions(needed | IMPORTED_BY_OTHERS) - requirements[""]


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_installs_its_feature(requirements: dict[str, set[str]], extra: str) -> None:
    assert requirements[extra] == distributions(EXTRAS[extra])


def test_the_extra_docs_installs_what_the_site_is_made_with(requirements: dict[str, set[str]]) -> None:
    needed = distributions(modules("docs") - {"reference"} - ROS)
    assert requirements["docs"] == needed - requirements[""] | SITE


def test_the_extra_dev_adds_what_tests_examples_and_benchmarks_import(requirements: dict[str, set[str]]) -> None:
    places = ("tests", "examples", "benchmarks")
    ours = {"benchmarks", "docs", *(file.stem for file in python_files(*places))}
    needed = distributions(modules(*places) - ours - ROS)
    assert requirements["dev"] == (needed - requirements[""] - requirements["train"]) | TOOLS
