"""Recorded frames, in order, from a bag, a video or a folder of images; the path tells which it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import CompressedImageLike, ImageLike, to_rgb
from dino_ros.images.stamps import SECOND, stamp_ns

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

BAG_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
FOLDER_RATE = 30.0
"""Frames per second of a folder of images, which has no stamps."""


@dataclass
class RgbImage:
    """A decoded image, with the fields of sensor_msgs/Image."""

    data: NDArray[np.uint8]
    height: int
    width: int
    step: int
    encoding: str = "rgb8"
    is_bigendian: int = 0


@dataclass
class EncodedImage:
    """The bytes of an image file, with the fields of sensor_msgs/CompressedImage."""

    format: str
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One recorded image."""

    stamp: int
    """Nanoseconds: the header's stamp in a bag, else counted from 0."""
    frame_id: str
    image: ImageLike | CompressedImageLike
    """As recorded."""

    def rgb(self) -> NDArray[np.uint8]:
        """The image, RGB [H, W, 3] uint8. Raises UserError if it cannot be decoded."""
        return to_rgb(self.image)


class Source(Protocol):
    """A sequence of frames that can be played again and again."""

    name: str
    """What it is, readable."""
    recorded: bool
    """Whether its stamps were recorded; if not, they count from 0."""

    def __len__(self) -> int:
        """Number of frames; an estimate for some videos."""

    def __iter__(self) -> Iterator[Frame]:
        """Play from the start."""


def open_source(path: str | Path, topic: str | None = None) -> Source:
    """Open a rosbag2 (folder or file), a ROS 1 bag, a video or a folder of images.

    `topic` is the bag's image topic; it may be left out if there is only one. Raises UserError if the path does not
    exist, is of no known kind or cannot be read, or if the topic is missing, ambiguous or does not carry images.
    """
    path = Path(path).expanduser()  # the shell does not, in `-p path:=~/bag`
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of a bag, a video or a folder of images.")
    if is_bag(path):
        return BagSource(path, topic)
    if path.is_dir():
        return FolderSource(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(path)
    known = " ".join(sorted(BAG_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(f"{path} is not a bag, a video or a folder of images: known suffixes are {known}.")


def is_bag(path: Path) -> bool:
    """Whether the path is a bag: a folder with metadata.yaml or storage files, or a file with a bag's suffix."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(f.suffix in {".mcap", ".db3"} for f in path.iterdir())
    return path.suffix.lower() in BAG_SUFFIXES


def open_bag(path: Path) -> AnyReader:
    """Open a bag for reading. Raises UserError if rosbags is not installed, or the bag is cut short or broken."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise UserError("Reading bags needs the package rosbags: run `pip install rosbags`.") from error
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # rosbags passes on those of its storage libraries (apsw, struct, lz4, zstd)
        raise broken_bag(path, error) from error
    return reader


def broken_bag(path: Path, error: Exception) -> UserError:
    """The UserError for an error while reading a bag: its first line, and what to do."""
    detail = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return UserError(
        f"{path} cannot be read as a bag ({detail}): it may be cut short or without metadata.yaml; repair it with "
        "`ros2 bag reindex`, or `mcap recover` for MCAP."
    )


def choose_image_topics(path: Path, types: Mapping[str, str], topics: Sequence[str] = ()) -> list[str]:
    """The named topics, or all image topics if none is named.

    `types` maps every topic of the bag to its message type. Raises UserError, listing the image topics, if a named one
    is missing or does not carry images, or if the bag has none.
    """
    images = sorted(topic for topic, kind in types.items() if kind in IMAGE_TYPES)
    listing = ", ".join(images) or "none"
    for topic in topics:
        if topic not in types:
            raise UserError(f"{path} has no topic {topic}: its image topics are {listing}.")
        if topic not in images:
            raise UserError(
                f"The topic {topic} of {path} is of type {types[topic]}, not of images: its image topics are {listing}."
            )
    if not images:
        raise UserError(f"{path} has no image topic: its topics are {', '.join(sorted(types)) or 'none'}.")
    return list(topics) or images


class BagSource:
    """The messages of one image topic of a bag, in recorded order."""

    recorded = True

    def __init__(self, path: Path, topic: str | None) -> None:
        self.path = path
        with closing(open_bag(path)) as reader:
            types = {c.topic: c.msgtype for c in reader.connections}
            chosen = choose_image_topics(path, types, [topic] if topic else [])
            if len(chosen) > 1:
                raise UserError(f"{path} has several image topics: choose one of {', '.join(chosen)}.")
            self.topic = chosen[0]
            self._count = sum(c.msgcount for c in reader.connections if c.topic == self.topic)
        self.name = f"{path.name}, {self.topic}"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        with closing(open_bag(self.path)) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            messages = reader.messages(connections)
            while True:
                try:
                    connection, time, raw = next(messages)
                    message: Any = reader.deserialize(raw, connection.msgtype)
                except StopIteration:
                    return
                except Exception as error:
                    raise broken_bag(self.path, error) from error
                yield Frame(stamp_ns(message) or time, message.header.frame_id, message)


class VideoSource:
    """The frames of a video file."""

    recorded = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        capture = self._open()
        self._rate = capture.get(cv2.CAP_PROP_FPS) or FOLDER_RATE
        self._count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # negative if the length is unknown
        decoded, _ = capture.read()
        if not decoded:
            raise self._undecodable()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        number = 0
        while True:
            decoded, bgr = capture.read()
            if not decoded:
                return
            yield _decoded_frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), number / self._rate)
            number += 1

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise self._undecodable()
        return capture

    def _undecodable(self) -> UserError:
        return UserError(f"{self.path} does not decode as a video: convert it, for example to H.264 in .mp4.")


class FolderSource:
    """The images of a folder and its subfolders, ordered by name, with 2 before 10."""

    recorded = False

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        images = (f for f in path.rglob("[!.]*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
        self.files = sorted(images, key=_natural)
        if not self.files:
            raise UserError(f"{path} holds no images: known suffixes are {' '.join(sorted(IMAGE_SUFFIXES))}.")

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        for number, file in enumerate(self.files):
            encoded = EncodedImage(file.suffix[1:].lower().replace("jpg", "jpeg"), np.fromfile(file, np.uint8))
            yield Frame(round(number / FOLDER_RATE * SECOND), "", encoded)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits in a path as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(file))]


def _decoded_frame(rgb: Any, seconds: float) -> Frame:
    height, width, _ = rgb.shape
    return Frame(round(seconds * SECOND), "", RgbImage(np.ascontiguousarray(rgb).reshape(-1), height, width, width * 3))
