"""Fast DDS profiles, which decide how large frames travel between processes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dino_ros.errors import UserError

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Humble and Jazzy read the first, Kilted and later the second."""
KILTED = 9
"""Major version of its rclpy."""

DEFAULT_SEGMENT = 512 * 1024
"""Bytes in the shared-memory segment of Fast DDS where no profile says otherwise; larger frames go over UDP, which may
lose them."""


def variables_to_set() -> tuple[str, ...]:
    """Those of PROFILE_VARIABLES that name a profile to this ROS: Kilted warns of the first in every process."""
    try:
        release = int(version("rclpy").partition(".")[0])
    except PackageNotFoundError:
        return PROFILE_VARIABLES
    return PROFILE_VARIABLES[1:] if release >= KILTED else PROFILE_VARIABLES


def profile_environment(profile: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make Fast DDS use the profile; none if `environment` already names one."""
    if any(environment.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(variables_to_set(), str(profile))


def loopback_profile() -> Path:
    """Path of the profile that keeps all traffic on this machine."""
    return Path(str(resources.files("dino_ros") / "demo" / "fastdds_loopback.xml"))


def segment_size(profile: Path) -> int:
    """Bytes in the shared-memory segment that a profile asks for; 0 if it does without shared memory.

    Raises UserError for a file that is missing or is no profile.
    """
    try:
        root = ElementTree.parse(profile).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{profile} is no profile of Fast DDS ({error}): correct the path, or the file.") from error
    transports = [
        {part.tag.rpartition("}")[2]: (part.text or "").strip() for part in element}
        for element in root.iter()
        if element.tag.rpartition("}")[2] == "transport_descriptor"
    ]
    sizes = [one.get("segment_size", "") for one in transports if one.get("type") == "SHM"]
    builtin = not any(
        element.tag.rpartition("}")[2] == "useBuiltinTransports" and (element.text or "").strip() == "false"
        for element in root.iter()
    )
    return max(
        [int(size) if size.isdecimal() else DEFAULT_SEGMENT for size in sizes], default=DEFAULT_SEGMENT * builtin
    )
