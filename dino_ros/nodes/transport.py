"""Fast DDS profiles, which decide how large frames travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Jazzy reads the first, Kilted and later the second."""


def profile_environment(profile: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make Fast DDS use the profile; none if `environment` already names one."""
    if any(environment.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    return dict.fromkeys(PROFILE_VARIABLES, str(profile))


def loopback_profile() -> Path:
    """Path of the profile that keeps all traffic on this machine."""
    return Path(str(resources.files("dino_ros") / "demo" / "fastdds_loopback.xml"))
