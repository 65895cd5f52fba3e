"""The bundled recording: a robot's camera above a table, rendered by examples/render_table.py."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.images.encodings import to_rgb
from dino_ros.images.sources import open_source

TABLE = Path(str(resources.files("dino_ros") / "demo" / "table_bag"))
"""rosbag2 (MCAP) of 20 s at 15 Hz."""
TOPIC = "/camera/image_raw/compressed"
TRUTH_TOPIC = "/ground_truth/mask/compressed"


def ground_truth() -> dict[int, NDArray[np.uint8]]:
    """Masks [H, W] uint8 by stamp in nanoseconds: 0 is the background, 1..n are the objects."""
    return {frame.stamp: to_rgb(frame.image)[:, :, 0] for frame in open_source(TABLE, TRUTH_TOPIC)}
