"""Bounding boxes of objects, as vision_msgs messages if that package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from dino_ros.masks.boxes import boxes

vision: Any = importlib.import_module("vision_msgs.msg") if importlib.util.find_spec("vision_msgs") else None
"""The package's messages; None if it is not installed."""


def detections_message(objects: NDArray[np.uint16], header: Header) -> Any:
    """A Detection2DArray with the box of every object in numbers [H, W]; each `id` is the object's number."""
    message = vision.Detection2DArray(header=header)
    for number, (left, top, width, height) in boxes(objects).items():
        detection = vision.Detection2D(header=header, id=str(number))
        detection.bbox.center.position.x = left + width / 2
        detection.bbox.center.position.y = top + height / 2
        detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = "object", 1.0
        detection.results.append(result)
        message.detections.append(detection)
    return message
