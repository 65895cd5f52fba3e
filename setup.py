"""Packaging for colcon and for pip. Version, description, maintainer and license are those of package.xml."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

OPENVINO = ["openvino>=2024.6"]
ON_PC = "sys_platform == 'linux' and platform_machine == 'x86_64'"
# Builds engines on any such machine, and runs them on GeForce and RTX cards. TensorRT's own packages come with JetPack.
TENSORRT_RTX = [f"tensorrt-rtx-cu13>=1.4; {ON_PC}", f"cuda-bindings>=13; {ON_PC}"]
QUANTIZE = ["nncf>=2.19"]
VIDEO = ["av>=17"]  # topics of H.264 and H.265; frames of video files by number
# Features for policies. Python 3.10 has the line before 3, 3.1 is where that writes files whole.
ZARR = ["zarr>=3.1.3; python_version >= '3.11'", "zarr>=2.18.3,<3; python_version < '3.11'"]
PARQUET = ["pyarrow>=15"]  # the first to write float16
SIMULATION = ["pybullet>=3.2.5; python_version < '3.12'"]  # has no wheels for later ones
TRAIN = [
    *VIDEO,
    "huggingface-hub",
    "jsonargparse[signatures]>=4.49",
    "matplotlib",
    "onnx>=1.16",
    "onnxscript>=0.3",
    "pillow",
    "rich>=13",
    "safetensors>=0.4",
    "scikit-learn>=1.5",
    "scipy",
    "tensorboard",
    "timm>=1.0.20",
    "torch>=2.6",
    "torchvision>=0.21",
]


HERE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(HERE / "package.xml").getroot()
MAINTAINER = MANIFEST.find("maintainer")


def data_files() -> list[tuple[str, list[str]]]:
    """Files of share/: launch files, everything under config, package.xml, ament's marker; and examples to run."""
    files = [
        ("share/ament_index/resource_index/packages", ["resource/dino_ros"]),
        ("share/dino_ros", ["package.xml"]),
        # ros2 run dino_ros crop_objects.py
        (
            "lib/dino_ros",
            ["examples/crop_objects.py", "examples/grasp_points.py", "examples/place_recognition.py"],
        ),
        ("share/dino_ros/launch", [str(path) for path in sorted(Path("launch").glob("*.launch.*"))]),
    ]
    for folder in [Path("config"), *sorted(path for path in Path("config").rglob("*") if path.is_dir())]:
        files.append((f"share/dino_ros/{folder}", [str(path) for path in sorted(folder.iterdir()) if path.is_file()]))
    return files


setup(
    name="dino_ros",
    version=MANIFEST.findtext("version"),
    description=MANIFEST.findtext("description"),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    maintainer=MAINTAINER.text,
    maintainer_email=MAINTAINER.get("email"),
    license=MANIFEST.findtext("license"),
    packages=find_packages(include=["dino_ros*", "dino_train*"]),
    package_data={
        "dino_ros": ["models/*.*", "models/parity/*", "demo/*.xml", "demo/table_bag/*", "view/page.*", "py.typed"],
        "dino_train": ["py.typed"],
    },
    data_files=data_files(),
    python_requires=">=3.10",
    # The headless OpenCV: the other one needs libGL, which robots and containers lack.
    # rosbags reads recordings, and the messages that the node receives; its minor versions rename parts of its API.
    install_requires=[
        "numpy>=1.24",
        "onnxruntime>=1.18",
        "opencv-python-headless>=4.11",
        "pyyaml",
        "rosbags>=0.11,<0.12",
    ],
    extras_require={
        # For machines without a ROS installation: real rclpy, Fast DDS and messages; one release per environment.
        # Names of extras have hyphens, as the pip of Python 3.11 finds none whose name has an underscore.
        "ros": ["ros-jazzy-rclpy>=7.1,<7.2", "ros-jazzy-rmw-fastrtps-cpp", "ros-jazzy-common-interfaces"],
        "ros-kilted": ["ros-kilted-rclpy>=9.1,<9.2", "ros-kilted-rmw-fastrtps-cpp", "ros-kilted-common-interfaces"],
        "openvino": OPENVINO,
        "bench": ["matplotlib"],  # the chart of `dino-ros bench`
        "zarr": ZARR,
        "parquet": PARQUET,
        "train": TRAIN,
        "quantize": QUANTIZE,
        "simulation": SIMULATION,  # the arm of `dino-train evaluate policy`
        "slurm": ["submitit>=1.5"],
        "video": VIDEO,
        "tensorrt": ["tensorrt>=10.3", "cuda-bindings>=12.8"],
        "tensorrt-rtx": TENSORRT_RTX,
        "docs": [
            "jsonargparse[signatures]>=4.49",  # tells the options of dino-train, without torch
            "mkdocs>=1.6,<2",  # the theme is for MkDocs 1
            "mkdocs-material>=9.8",  # needs Python 3.11
            "mkdocstrings-python>=2",
            "ruff",  # breaks long signatures
        ],
        "test": ["pytest"],  # which tells colcon how to run the tests
        "dev": [  # on top of ros and train
            *OPENVINO,
            *TENSORRT_RTX,
            *QUANTIZE,
            *PARQUET,
            *ZARR,
            *SIMULATION,
            "colcon-common-extensions",
            "hypothesis",
            "lz4",
            "mypy",
            "pycocotools>=2.0.8",  # reads the labels of `dino-ros annotate`; has wheels for Python 3.10 to 3.13
            "pytest",
            "pytest-cov>=7",
            "pytest-xdist>=3.2",  # the first with --dist worksteal
            "ruff",
            "setuptools>=70.1",  # the first that builds wheels by itself, as a test does
            "selenium>=4.11",  # drives the Chromium in which a test looks at the page of `dino-ros view`
            "submitit>=1.5",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "dino-ros = dino_ros.cli:main",
            "dino-train = dino_train.cli:main",
            "perception_node = dino_ros.nodes.perception_node:main",
            "camera_node = dino_ros.nodes.camera_node:main",
            "depth_node = dino_ros.nodes.depth_node:main",
            "learner_node = dino_ros.nodes.learner_node:main",
        ]
    },
)
