"""Frames of a bag by number, read straight from the recording."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.encodings import to_rgb
from dino_ros.errors import UserError
from dino_ros.sources import choose_image_topics, open_bag

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

log = logging.getLogger(__name__)


class BagFrames:
    """Frames of the image topics of a bag, any storage that `dino_ros.sources.open_bag` opens.

    The index holds a topic and a time per frame; frames are read and decoded when asked for, and every worker process
    opens the bag for itself. `topics` empty takes every image topic whose first message is a picture. Raises UserError
    as `open_bag` does, and if a topic is missing or holds no pictures.
    """

    def __init__(self, path: Path, topics: Sequence[str] = ()) -> None:
        self.path = path
        self._owner = 0
        reader = self._open()
        self.topics = choose_image_topics(path, reader, topics)
        if not topics:
            self.topics = [topic for topic in self.topics if self._holds_pictures(reader, topic)]
        connections = [c for c in reader.connections if c.topic in self.topics]
        # A dict, because two messages of a topic with one time could not be told apart again.
        self._index = list(dict.fromkeys((c.topic, time) for c, time, _ in reader.messages(connections)))
        self.name = f"{path.name} ({', '.join(self.topics)})"
        if not self._index:
            raise UserError(f"{path} holds no pictures on its image topics: choose another bag.")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        reader = self._reader if self._owner == os.getpid() else self._open()
        topic, time = self._index[index]
        connections = [c for c in reader.connections if c.topic == topic]
        connection, _, raw = next(reader.messages(connections, start=time, stop=time + 1))
        message: Any = reader.deserialize(raw, connection.msgtype)
        try:
            return to_rgb(message)
        except UserError as error:
            raise UserError(f"{self.path}, topic {topic}, message at {time} ns: {error}") from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None, "_owner": 0}

    def _holds_pictures(self, reader: AnyReader, topic: str) -> bool:
        """Whether the first message of an image topic is a picture; depth and empty topics are named and left out."""
        connections = [c for c in reader.connections if c.topic == topic]
        try:
            connection, _, raw = next(reader.messages(connections))
            message: Any = reader.deserialize(raw, connection.msgtype)
            to_rgb(message)
        except StopIteration:
            log.warning("left out: %s of %s has no messages", topic, self.path)
            return False
        except UserError as error:
            log.warning("left out: %s of %s: %s", topic, self.path, error)
            return False
        return True

    def _open(self) -> AnyReader:
        self._reader = open_bag(self.path)
        self._owner = os.getpid()
        return self._reader
