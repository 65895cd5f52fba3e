"""Objects in meters: the points of each and the box around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_ros.depth.boxes import Box, above, box_around
from dino_ros.depth.support import supporting_plane
from dino_ros.depth.surface import FEWEST, ObjectPoints, Surface, largest_part


@dataclass(frozen=True, eq=False)
class LocatedObject:
    """An object of which depth is seen."""

    points: ObjectPoints
    """What is seen of it, without the plane it stands on."""
    box: Box


def locate(surface: Surface, masks: Sequence[NDArray[np.uint16]]) -> list[list[LocatedObject]]:
    """For each mask, numbers [h, w] (0: background), its objects by rising number; those with too little depth are left
    out.

    Masks may overlap, and have any size of the depth image's shape. Raises UserError for one of another shape.
    """
    registered = [surface.registered(mask) for mask in masks]
    anything = np.zeros(surface.shape, bool)
    for mask in registered:
        anything |= mask > 0
    background = surface.background(anything)
    return [
        [found for points in surface.object_points(mask) if (found := _located(points, surface, background))]
        for mask in registered
    ]


def _located(points: ObjectPoints, surface: Surface, background: NDArray[np.bool_]) -> LocatedObject | None:
    if len(points.xyz) < FEWEST:
        return None
    plane = supporting_plane(surface, background, points.pixels)
    if plane is not None:
        points = above(points, plane)
    points = largest_part(points)
    if len(points.xyz) < FEWEST:
        return None
    return LocatedObject(points, box_around(points, plane, surface))
