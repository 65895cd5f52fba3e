"""Fast DDS profiles: how large frames get from one process to another."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Jazzy reads the first, Kilted and later the second."""


def profile_environment(profile: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make Fast DDS use the profile; none where the user has a profile of their own."""
    if any(environment.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(profile))


def loopback_profile() -> Path:
    """The profile that keeps all traffic on this machine."""
    return Path(str(resources.files("dino_ros") / "demo" / "fastdds_loopback.xml"))
