"""Bounding boxes of objects and the name of their class, as vision_msgs messages if that package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from dino_ros.masks.boxes import boxes
from dino_ros.perception.perceiver import Sighting

vision: Any = importlib.import_module("vision_msgs.msg") if importlib.util.find_spec("vision_msgs") else None
"""The package's messages; None if it is not installed."""
CLASS_ID, CLASS_NAME = 1, "object"
"""The only class: the masks do not tell kinds of objects apart. 0 is left to the background, as in COCO."""
SCORE = 1.0
"""Of every object: a mask says where objects are, not how surely."""
THRESHOLD = 0.5
"""What a soft mask exceeds on objects, and a score where an object is in view."""


def detections_message(objects: NDArray[np.uint16], header: Header) -> Any:
    """A Detection2DArray with the box of every object in numbers [H, W], by rising number, which each has as its `id`.

    Its one result has the class that `label_info_message` names.
    """
    detections = _detections(objects, header, "", str(CLASS_ID), SCORE)
    return vision.Detection2DArray(header=header, detections=detections)


def taught_detections_message(sightings: Mapping[str, Sighting], header: Header) -> Any:
    """A Detection2DArray with the boxes of all taught objects that are in view: each has the object's name as its class
    and, with a number, as its `id`, as in `cup 1`; its score is that of the sighting."""
    message = vision.Detection2DArray(header=header)
    for name, sighting in sightings.items():
        message.detections += _detections(sighting.objects, header, f"{name} ", name, sighting.score)
    return message


def _detections(objects: NDArray[np.uint16], header: Header, prefix: str, class_id: str, score: float) -> list[Any]:
    """A Detection2D for every object in numbers [H, W]."""
    detections = []
    for number, (left, top, width, height) in boxes(objects).items():
        detection = vision.Detection2D(header=header, id=f"{prefix}{number}")
        detection.bbox.center.position.x = left + width / 2
        detection.bbox.center.position.y = top + height / 2
        detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = class_id, score
        detection.results.append(result)
        detections.append(detection)
    return detections


def taught_scores(message: Any) -> dict[str, float]:
    """The score of each object, by its name, of what `taught_detections_message` made."""
    results = [result.hypothesis for detection in message.detections for result in detection.results]
    return {result.class_id: result.score for result in results}


def taught_label_info_message(names: Sequence[str], header: Header) -> Any:
    """A LabelInfo with the names of taught objects, numbered from 1."""
    classes = [vision.VisionClass(class_id=number, class_name=name) for number, name in enumerate(names, start=1)]
    return vision.LabelInfo(header=header, class_map=classes, threshold=THRESHOLD)


def label_info_message(header: Header) -> Any:
    """A LabelInfo with the name of the class that the detections have."""
    names = [vision.VisionClass(class_id=CLASS_ID, class_name=CLASS_NAME)]
    return vision.LabelInfo(header=header, class_map=names, threshold=THRESHOLD)
