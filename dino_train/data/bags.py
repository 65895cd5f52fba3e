"""Frames of a bag at random, read straight from the recording."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bag_files import Connection, MessageReader
from dino_ros.images.bags import choose_image_topics, deserializer
from dino_ros.images.encodings import to_rgb
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import readable
from dino_train.data.index import BagIndex, index_bag
from dino_train.data.selection import thumbnail_of_message

log = logging.getLogger(__name__)


class BagFrames:
    """The frames of an image topic of a bag.

    A frame is read and decoded when it is asked for. Every process opens the bag's files for itself; in memory are the
    index, 24 bytes per frame, and at most one chunk where chunks are compressed.
    """

    def __init__(self, index: BagIndex, topic: str) -> None:
        self.path = index.path
        self.topic = topic
        self.name = f"{readable(index.path.name)} {topic}"
        self.cache = index.cache
        self._messages = index.messages[topic]
        self._connection = index.topics[topic]
        self._reader = MessageReader(index.files, index.chunks)

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        try:
            return to_rgb(self.message(index))
        except UserError as error:
            time = self._messages["time"][index]
            raise UserError(f"{self.path}, topic {self.topic}, message at {time} ns: {error}") from error

    @property
    def times(self) -> NDArray[np.int64]:
        """When each frame was recorded [N], ns."""
        return self._messages["time"]

    @property
    def encoding(self) -> str:
        """Encoding or compression format of the first message that can be read; empty where none can."""
        message = next(filter(None, map(self._message_or_none, range(len(self)))), None)
        if message is None:
            return ""
        return str(message.encoding if hasattr(message, "encoding") else message.format)

    def message(self, index: int) -> Any:
        """Read a sensor_msgs/Image or CompressedImage as recorded. Raises UserError if it cannot be read."""
        _, offset, size, chunk = self._messages[index].item()
        try:
            raw = self._reader.read(offset, size, chunk)
        except Exception as error:  # every storage and compression raises its own
            raise UserError(f"it cannot be read ({error}): the bag is damaged there or was changed.") from error
        return _deserializer(self._connection)(raw)

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield the thumbnail of every frame, None where it does not decode."""
        threads = os.cpu_count() or 1
        with ThreadPool(threads) as pool:  # OpenCV releases the interpreter's lock to decode
            for start in range(0, len(self), 4 * threads):
                numbers = range(start, min(start + 4 * threads, len(self)))
                yield from pool.map(_thumbnail, [self._message_or_none(number) for number in numbers])

    def why_not_images(self) -> str | None:
        """Why this topic holds no images, None if it does: tries the first message, and two more if that is damaged."""
        if not len(self):
            return "it has no messages"
        errors = []
        for number in evenly_spaced(len(self), 3):
            try:
                self[number]
                return None
            except UserError as error:
                errors.append(str(error.__cause__ or error).rstrip("."))
        return errors[0]

    def _message_or_none(self, index: int) -> Any:
        try:
            return self.message(index)
        except UserError:
            return None


def open_bag_frames(path: Path, topics: Sequence[str] = ()) -> tuple[list[BagFrames], dict[str, str]]:
    """Open the named topics of a bag, by default every topic that holds images.

    Returns the frames of each topic, and the topics that were left out with the reason. Raises UserError if the bag
    cannot be read, if a named topic is missing or holds no images, or if no topic holds any.
    """
    index = index_bag(path)
    chosen = [
        BagFrames(index, topic)
        for topic in choose_image_topics(path, {name: topic.type for name, topic in index.topics.items()}, topics)
    ]
    reasons = {frames.topic: reason for frames in chosen if (reason := frames.why_not_images())}
    for topic in topics:
        if topic in reasons:
            raise UserError(f"The topic {topic} of {path} holds no images ({reasons[topic]}): choose another one.")
    if len(reasons) == len(chosen):
        listing = "; ".join(f"{topic}: {reason}" for topic, reason in reasons.items())
        raise UserError(f"{path} holds no images on its image topics ({listing}): choose another bag.")
    if not topics:
        others = sorted(index.topics.keys() - index.messages.keys())
        reasons |= {topic: f"it is of type {index.topics[topic].type}, not of images" for topic in others}
    for topic, reason in reasons.items():
        log.info("%s: left out %s: %s", path.name, topic, reason)
    return [frames for frames in chosen if frames.topic not in reasons], reasons


def _thumbnail(message: Any) -> NDArray[np.uint8] | None:
    return None if message is None else thumbnail_of_message(message)


_deserializer: Callable[[Connection], Callable[[bytes], Any]] = functools.cache(deserializer)
