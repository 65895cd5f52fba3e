"""The programs that show the node's topics, and their settings, written for the names that the topics have."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from dino_ros.errors import UserError

NAMESPACE = "/dino"
"""Of the topics in the settings that ship."""
IMAGE_TOPIC = f"{NAMESPACE}/image"
"""The camera in the settings that ship."""


@dataclass(frozen=True)
class Viewer:
    """A program that shows topics, and its settings."""

    package: str
    """The ROS package, and its program."""
    settings: str
    """Path inside `config`."""


VIEWERS = {
    "rviz": Viewer("rviz2", "rviz/perception.rviz"),
    "foxglove": Viewer("foxglove_bridge", "foxglove/perception.json"),
}
"""By the value of the launch argument `viz`."""


def check_installed(viz: str) -> None:
    """Raise UserError, with the command that installs it, if the viewer's package is not there."""
    package = VIEWERS[viz].package
    try:
        get_package_prefix(package)
    except PackageNotFoundError as error:
        distribution = os.environ.get("ROS_DISTRO", "$ROS_DISTRO")
        raise UserError(
            f"viz:={viz} needs the package {package}, which is not installed: sudo apt install "
            f"ros-{distribution}-{package.replace('_', '-')}."
        ) from error


def settings_for(viz: str, config: Path, namespace: str, image_topic: str) -> Path:
    """The viewer's settings for a camera's topic and the results in `namespace`, both full names, the root's empty.

    The file in `config` if it names these, else one in the folder for temporary files.
    """
    shipped = config / VIEWERS[viz].settings
    if (namespace, image_topic) == (NAMESPACE, IMAGE_TOPIC):
        return shipped
    # The camera first goes by a name that no topic has, so that the namespace does not change it.
    text = shipped.read_text().replace(IMAGE_TOPIC, "\0").replace(f"{NAMESPACE}/", f"{namespace}/")
    written = Path(tempfile.mkdtemp(prefix="dino_ros_")) / shipped.name
    written.write_text(text.replace("\0", image_topic))
    return written
