"""Recorded frames, in order, from a bag, a video or a folder of images; the path tells which it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import named_path
from dino_ros.images.bags import (
    BAG_SUFFIXES,
    TOPIC_OPTION,
    choose_image_topics,
    deserializer,
    is_bag,
    label_word,
    open_bag,
)
from dino_ros.images.encodings import CompressedImageLike, EncodedImage, ImageLike, SensorBits, to_rgb
from dino_ros.images.folders import IMAGE_SUFFIXES, check_no_pipe, image_files, natural
from dino_ros.images.stamps import SECOND, stamp_ns
from dino_ros.images.video_messages import VIDEO_TYPES, decode_messages, load_av

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"})
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
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


@dataclass(frozen=True)
class Frame:
    """One recorded image."""

    stamp: int
    """Nanoseconds: the header's stamp in a bag, or `time` where that is not set."""
    time: int
    """Nanoseconds: when it was recorded in a bag, else counted from 0."""
    frame_id: str
    image: ImageLike | CompressedImageLike
    """As recorded, that of a video decoded."""
    camera_info: Any = None
    """The sensor_msgs/CameraInfo that was recorded for it, where the source was opened with them and has some."""
    name: str = ""
    """What it is called in messages."""
    least_bits: int = 0
    """Bits per pixel that 16-bit images of its camera have been seen to use."""

    def rgb(self) -> NDArray[np.uint8]:
        """The image, RGB [H, W, 3] uint8. Raises UserError, naming the frame, if it cannot be decoded."""
        try:
            return to_rgb(self.image, least_bits=self.least_bits)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error


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


def open_source(path: str | Path, topic: str | None = None, camera_info: bool = False) -> Source:
    """Open a rosbag2 (folder or file), a ROS 1 bag, a video or a folder of images.

    `topic` is the bag's image topic; it may be left out if only one is not of labels or depth, by its name. With
    `camera_info` the frames of a bag carry the camera's CameraInfo. Raises UserError if the path does not exist, is of
    no known kind or cannot be read, or if the topic is missing, ambiguous or does not carry images.
    """
    path = named_path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of a bag, a video or a folder of images.")
    check_no_pipe(path)
    if is_bag(path):
        return BagSource(path, topic, camera_info)
    if path.is_dir():
        return FolderSource(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(path)
    known = " ".join(sorted(BAG_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(
        f"{path} is not a bag, a video or a folder of images: give a folder, or a file that ends in one of {known}."
    )


class BagSource:
    """The messages of one image topic of a bag, in recorded order; those that are damaged are left out, with a warning.

    Those of video are decoded. Raises UserError, beside what `open_source` says, if the topic has no messages.
    """

    recorded = True

    def __init__(self, path: Path, topic: str | None, camera_info: bool) -> None:
        self.path = path
        self._bag = open_bag(path)
        chosen = choose_image_topics(path, self._bag.types, [topic] if topic else [])
        if len(chosen) > 1:
            chosen = [name for name in chosen if not label_word(name)] or chosen
        if len(chosen) > 1:
            raise UserError(f"{path} has several image topics: choose one of {', '.join(chosen)} with {TOPIC_OPTION}.")
        self.topic = chosen[0]
        self._deserialize = {self.topic: deserializer(self._bag.topics[self.topic])}
        if not len(self):
            raise UserError(
                f"The topic {self.topic} of {path} has no messages: choose another with {TOPIC_OPTION}, or "
                "record again."
            )
        self._video = self._bag.types[self.topic] in VIDEO_TYPES
        if self._video:
            load_av(f"The topic {self.topic} of {path} is video: playing it")
        self.name = f"{readable(path.name)}, {self.topic}"
        self.camera_info_topic = self._find_camera_info() if camera_info else ""
        """The topic of the camera's CameraInfo; empty if there is none, or it was not asked for."""
        self._bits = SensorBits(self.name)

    def __len__(self) -> int:
        return self._bag.counts[self.topic]

    def __iter__(self) -> Iterator[Frame]:
        infos = self._messages(self.camera_info_topic) if self.camera_info_topic else iter(())
        info: Any = None
        following = next(infos, None)
        for time, stamp, frame_id, image in self._images():
            while following is not None and stamp_of(*following) <= stamp:
                info, following = following[1], next(infos, None)
            name = f"{self.path}, topic {self.topic}, message at {time} ns"
            yield Frame(stamp, time, frame_id, image, info, name=name, least_bits=self._bits.see(image))

    def _images(self) -> Iterator[tuple[int, int, str, ImageLike | CompressedImageLike]]:
        """Yield for each image the time when it was recorded, its stamp, its frame and itself."""
        messages = self._messages(self.topic)
        if self._video:
            for time, stamp, frame_id, rgb in decode_messages(messages, f"{self.path}, topic {self.topic}"):
                yield time, stamp or time, frame_id, _rgb_image(rgb)
            return
        for time, message in messages:
            yield time, stamp_of(time, message), message.header.frame_id, message

    def _messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Yield the messages of a topic, each with the time when it was recorded."""
        for time, raw in self._bag.messages(topic):
            try:
                message = self._deserialize[topic](raw)
            except UserError as error:
                log.warning("left out: %s, topic %s, message at %d ns: %s", self.path, topic, time, error)
                continue
            yield time, message

    def _find_camera_info(self) -> str:
        """The topic camera_info beside the images; compressed ones are a level below those that they stand for."""
        levels = 1 if self._bag.types[self.topic].endswith("/Image") else 2
        for folder in list(PurePosixPath(self.topic).parents)[:levels]:
            topic = str(folder / "camera_info")
            if self._bag.types.get(topic) == CAMERA_INFO_TYPE:
                try:
                    self._deserialize[topic] = deserializer(self._bag.topics[topic])
                except UserError as error:
                    log.warning("%s", error)
                    continue
                return topic
        return ""


class VideoSource:
    """The frames of a video file."""

    recorded = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = readable(path.name)
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
        first, seconds = None, 0.0
        while True:
            decoded, bgr = capture.read()
            if not decoded:
                return
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if first is None:
                first = told
            else:  # some formats do not tell the times of all frames
                seconds = told - first if told - first > seconds else seconds + 1 / self._rate
            time = round(seconds * SECOND)
            yield Frame(time, time, "", _rgb_image(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))

    def _open(self) -> cv2.VideoCapture:
        check_video_name(self.path)
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
        self.name = readable(path.resolve().name)
        self.files = sorted(image_files(path), key=natural)
        if not self.files:
            raise UserError(
                f"{path} holds no images: give a folder of files that end in one of {' '.join(sorted(IMAGE_SUFFIXES))}."
            )

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        for number, file in enumerate(self.files):
            try:
                data = np.fromfile(file, np.uint8)
            except OSError as error:
                log.warning("left out: %s cannot be read (%s)", file, error.strerror)
                continue
            encoded = EncodedImage(file.suffix[1:].lower().replace("jpg", "jpeg"), data)
            time = round(number / FOLDER_RATE * SECOND)
            yield Frame(time, time, "", encoded, name=readable(str(file)))


def stamp_of(time: int, message: Any) -> int:
    """The stamp of a message with a header, or where it is not set the time at which it was recorded."""
    return stamp_ns(message) or time


def check_video_name(path: Path) -> None:
    """Raise UserError for a name that OpenCV crashes on."""
    if readable(str(path)) != str(path):
        raise UserError(f"{readable(str(path))} has a name that is not UTF-8: rename the video.")


def readable(name: str) -> str:
    """A file's name as text that every output takes: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def _rgb_image(rgb: Any) -> RgbImage:
    height, width, _ = rgb.shape
    return RgbImage(np.ascontiguousarray(rgb).reshape(-1), height, width, width * 3)
