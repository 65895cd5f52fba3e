"""Random access to images in bags, folders, tar shards and videos."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bags import BAG_SUFFIXES, base_topic, is_bag
from dino_ros.images.folders import IMAGE_SUFFIXES, check_no_pipe, files_below, is_image_name
from dino_ros.images.sources import VIDEO_SUFFIXES, readable
from dino_train.data.bag_topics import open_bag_frames
from dino_train.data.bags import BagFrames
from dino_train.data.images import FolderFrames, TarFrames
from dino_train.data.selection import SelectedFrames, SelectionParameters
from dino_train.data.video import VideoFrames
from dino_train.machine.workers import in_parallel

BAD_SHARE = 0.5
"""Share of the images that training may do without."""


class Frames(Protocol):
    """Images that can be read at random, from several worker processes at once."""

    name: str
    """What this source is called in tables and messages."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one image, RGB [H, W, 3]; raises UserError if it cannot be decoded."""


def too_many_bad(frames: Frames) -> UserError:
    """What to raise where more than BAD_SHARE of the images cannot be read."""
    return UserError(
        f"More than {BAD_SHARE:.0%} of the {len(frames)} images of {frames.name} cannot be read: the warnings above "
        "name them; repair the data or leave it out."
    )


class MixedFrames:
    """Several sources, one after the other."""

    def __init__(
        self,
        sources: Sequence[Frames],
        weights: Sequence[float] | None = None,
        left_out: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        self.sources: Sequence[Frames] = list(sources)
        self.weights: Sequence[float] = [1.0] * len(self.sources) if weights is None else list(weights)
        """How often an image of each source is drawn, relative to the others."""
        self.left_out = list(left_out)
        """Bag, topic, and why it was left out."""
        self.name = ", ".join(source.name for source in self.sources)
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        source = bisect.bisect_right(self._ends, index)
        return self.sources[source][index - (self._ends[source - 1] if source else 0)]


def open_frames(
    paths: Sequence[str | Path],
    topics: Sequence[str] = (),
    weights: Mapping[str, float] = MappingProxyType({}),
    selection: SelectionParameters | None = None,
) -> MixedFrames:
    """Open every path for random access; what a path holds is found out by looking at it.

    A path may be a rosbag2 folder or file, a ROS 1 bag, a folder of images, shards or videos, a `.tar` shard, an image
    or a video. `topics` picks image topics of bags (default: all of them); each is a source of its own. The keys of
    `weights` are paths as given, file names or topics, the values are above 0; where several match a source they are
    multiplied. `selection` leaves near-duplicates out of bags and videos (default: every frame is kept). Raises
    UserError for a path that is missing, unreadable or of an unknown kind, for topics and weights that match nothing,
    and if there are no images.
    """
    if not paths:
        raise UserError("No data given: name at least one bag, folder of images, tar shard or video.")
    opened: list[Frames] = []
    keys: list[set[str]] = []
    left_out: list[tuple[str, str, str]] = []
    by_path = list(in_parallel(functools.partial(_open_path, topics=topics), paths, "opening recordings"))
    for path, (sources, left_out_here) in zip(paths, by_path, strict=True):
        keys += [{str(path), Path(path).name, *_keys(source)} for source in sources]
        opened += sources
        left_out += left_out_here
    if topics and not any(isinstance(source, BagFrames) for source in opened):
        raise UserError(f"--topic {' '.join(topics)} was given, but none of the paths is a bag: leave it out.")
    factors = _weights(weights, keys)
    if selection and selection.near_duplicate_threshold:
        select = functools.partial(_select, selection=selection)
        selected = in_parallel(select, [sources for sources, _ in by_path], "looking for near-duplicates")
        opened = [source for sources in selected for source in sources]
    return MixedFrames(opened, factors, left_out)


def _open_path(path: str | Path, topics: Sequence[str]) -> tuple[list[Frames], list[tuple[str, str, str]]]:
    """The sources of a path, and what of it was left out; see `MixedFrames`."""
    left_out: list[tuple[str, str, str]] = []
    return _open_one(Path(path), topics, left_out), left_out


def _select(sources: Sequence[Frames], selection: SelectionParameters) -> list[Frames]:
    """The sources of a path, recordings without near-duplicates. They share a cache, so one process takes them all."""
    return [
        SelectedFrames(source, selection) if isinstance(source, BagFrames | VideoFrames) else source
        for source in sources
    ]


def _open_one(path: Path, topics: Sequence[str], left_out: list[tuple[str, str, str]]) -> list[Frames]:
    if not path.exists():
        raise UserError(f"{path} does not exist: give a bag, a folder of images, a tar shard or a video.")
    check_no_pipe(path)
    if is_bag(path):
        bag, reasons = open_bag_frames(path, topics)
        left_out.extend((path.name, topic, reason) for topic, reason in reasons.items())
        return list(bag)
    if path.is_dir():
        return _open_folder(path, topics, left_out)
    if path.suffix.lower() == ".tar":
        return [TarFrames(path)]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [VideoFrames(path)]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [FolderFrames(readable(path.name), path.parent, [path.name])]
    known = sorted({".tar", *BAG_SUFFIXES, *VIDEO_SUFFIXES, *IMAGE_SUFFIXES})
    raise UserError(f"{path} is not a bag, a video, a tar shard or an image: known endings are {' '.join(known)}.")


def _open_folder(path: Path, topics: Sequence[str], left_out: list[tuple[str, str, str]]) -> list[Frames]:
    # Strings rather than Path objects: a folder may hold a million images.
    files = sorted(files_below(path))
    images = [file for file in files if is_image_name(file)]
    containers = [file for file in files if os.path.splitext(file)[1].lower() in {".tar", *VIDEO_SUFFIXES}]
    if not containers and not images:
        raise UserError(
            f"{path} holds no images, tar shards or videos, and is not a rosbag2 folder: give another path."
        )
    folder: list[Frames] = [FolderFrames(readable(path.name), path, images)] if images else []
    return folder + [source for container in containers for source in _open_one(path / container, topics, left_out)]


def _keys(source: Frames) -> set[str]:
    """Names that weights may use for a source, besides the path that it was opened from."""
    if isinstance(source, BagFrames):
        return {source.topic, base_topic(source.topic, source.type)}
    if isinstance(source, TarFrames | VideoFrames):
        return {str(source.path), source.path.name}
    return set()


def _weights(weights: Mapping[str, float], keys: Sequence[set[str]]) -> list[float]:
    """Weight of each source, given the names it goes by."""
    for key, weight in weights.items():
        if not 0 < weight < math.inf:
            raise UserError(f"The weight {weight} of {key} is not above 0: leave that data out instead.")
        if not any(key in names for names in keys):
            listing = ", ".join(sorted(set.union(*keys)))
            raise UserError(f"The weight of {key} matches none of the data: use one of {listing}.")
    return [math.prod(weight for key, weight in weights.items() if key in names) for names in keys]
