"""Pictures by number, from anything that holds some: bags, folders, tar shards and videos."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.sources import BAG_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_bag
from dino_train.data.bags import BagFrames
from dino_train.data.images import FolderFrames, TarFrames
from dino_train.data.video import VideoFrames


class Frames(Protocol):
    """Pictures by number, readable from several worker processes at once."""

    name: str
    """What to call this source in a table."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, RGB [H, W, 3]; raises UserError if it cannot be decoded."""


class MixedFrames:
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Frames]) -> None:
        self.sources = list(sources)
        self.name = ", ".join(source.name for source in self.sources)
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        source = bisect.bisect_right(self._ends, index)
        return self.sources[source][index - (self._ends[source - 1] if source else 0)]


def open_frames(paths: Sequence[str | Path], topics: Sequence[str] = ()) -> MixedFrames:
    """Open every path for random access, told apart by looking at it.

    A rosbag2 folder or file, a ROS 1 bag, a folder of pictures (or of shards, or of videos), a `.tar` shard, a picture
    or a video. `topics` picks image topics of bags (default: every image topic). Raises UserError for a path that is
    missing, unreadable or of no known kind, and when there is not one picture.
    """
    if not paths:
        raise UserError("No data given: name at least one bag, folder of pictures, tar shard or video.")
    sources = [source for path in paths for source in _open_one(Path(path), topics)]
    if topics and not any(isinstance(source, BagFrames) for source in sources):
        raise UserError(f"--topic {' '.join(topics)} was given, but none of the paths is a bag: leave it out.")
    return MixedFrames(sources)


def _open_one(path: Path, topics: Sequence[str]) -> list[Frames]:
    if not path.exists():
        raise UserError(f"{path} does not exist: give a bag, a folder of pictures, a tar shard or a video.")
    if is_bag(path):
        return [BagFrames(path, topics)]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        containers = [f for f in files if f.suffix.lower() in {".tar", *VIDEO_SUFFIXES}]
        pictures = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
        if not containers and not pictures:
            raise UserError(f"{path} holds no pictures, tar shards or videos, and is not a rosbag2 folder either.")
        folder: list[Frames] = [FolderFrames(path.name, pictures)] if pictures else []
        return folder + [source for container in containers for source in _open_one(container, topics)]
    if path.suffix.lower() == ".tar":
        return [TarFrames(path)]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return [VideoFrames(path)]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [FolderFrames(path.name, [path])]
    known = sorted({".tar", *BAG_SUFFIXES, *VIDEO_SUFFIXES, *IMAGE_SUFFIXES})
    raise UserError(f"{path} is of no kind that can be read: known endings are {' '.join(known)}.")
