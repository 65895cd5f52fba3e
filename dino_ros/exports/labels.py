"""Objects as labels: COCO's run lengths and polygons, and the outlines of YOLO."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.boxes import boxes

CATEGORY = "object"
"""The only class: the masks do not tell kinds of objects apart."""


def coco_annotations(objects: NDArray[np.uint16]) -> list[dict[str, Any]]:
    """The objects in numbers [H, W] (0: background), each as the fields that COCO knows and its `number`.

    `bbox` is left, top, width and height, and `area` counts pixels. `segmentation` holds uncompressed run lengths,
    which are exact, holes included.
    """
    return [
        {
            "number": number,
            "bbox": list(box),
            "area": int(np.count_nonzero(objects == number)),
            "iscrowd": 0,
            "segmentation": {"size": list(objects.shape), "counts": run_lengths(objects == number)},
        }
        for number, box in boxes(objects).items()
    ]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask [H, W] column by column, the first of them off and possibly 0."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Outlines of the parts of a mask [H, W], x and y in turn, in pixels; holes are filled.

    They run a quarter of a pixel inside the edges of the outermost pixels, so that whoever fills them gets those pixels
    and no others.
    """
    fine = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    outlines, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((outline + 0.5) / 2).ravel().tolist() for outline in outlines]


def mask_of(run_lengths: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask [height, width] of run lengths."""
    values = np.arange(len(run_lengths)) % 2 == 1
    return np.repeat(values, run_lengths).reshape(width, height).T


def yolo_lines(objects: NDArray[np.uint16]) -> list[str]:
    """A line for each object in numbers [H, W]: the class 0 and its outline, x and y from 0 to 1.

    The outline runs through the centers of the outermost pixels; holes are filled. YOLO takes boxes from outlines, so
    that the lines serve detection and segmentation.
    """
    height, width = objects.shape
    lines = []
    for number in boxes(objects):
        outlines, _ = cv2.findContours((objects == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outline = max(outlines, key=len)[:, 0]
        corners = np.resize(outline, (max(len(outline), 3), 2))  # one or two pixels are a polygon, too
        places = (corners + 0.5) / (width, height)
        lines.append(" ".join(["0", *(f"{value:.6f}" for value in places.ravel())]))
    return lines
