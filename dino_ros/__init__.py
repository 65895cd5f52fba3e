"""Self-supervised vision for robots: DINO features and attention masks on ROS 2, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dino_ros.perception.perceiver import Perceiver, Perception

__all__ = ["Perceiver", "Perception"]


def __getattr__(name: str) -> object:
    """Load the runtime when it is first asked for: `import dino_ros` stays cheap."""
    if name in __all__:
        from dino_ros.perception import perceiver

        return getattr(perceiver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
