"""Self-supervised vision for robots: DINO features and attention masks on ROS 2, without torch.

`__all__` lists the public names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dino_ros.errors import UserError
    from dino_ros.masks.parameters import MaskParameters
    from dino_ros.messages import to_array
    from dino_ros.perception.perceiver import Perceiver, Perception

__all__ = ["MaskParameters", "Perceiver", "Perception", "UserError", "to_array"]

_MODULES = {
    "MaskParameters": "dino_ros.masks.parameters",
    "Perceiver": "dino_ros.perception.perceiver",
    "Perception": "dino_ros.perception.perceiver",
    "UserError": "dino_ros.errors",
    "to_array": "dino_ros.messages",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import dino_ros` stays cheap."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
