"""Topics of images in bags: frames at random, read straight from the recording."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bag_files import MessageReader
from dino_ros.images.bag_records import Connection
from dino_ros.images.bags import deserializer
from dino_ros.images.encodings import SensorBits, as_intensity, to_rgb
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import readable
from dino_train.data.index import BagIndex
from dino_train.data.selection import thumbnail_of_message

LOOKED_AT = 32
"""16-bit images that tell how many bits a camera uses."""


class BagFrames:
    """The frames of an image topic of a bag.

    A frame is read and decoded when it is asked for. Every process opens the bag's files for itself; in memory are the
    index, 24 bytes per frame, and at most one chunk where chunks are compressed.
    """

    def __init__(self, index: BagIndex, topic: str, asked: bool = False) -> None:
        """With `asked`, the topic was named, and 16UC1 on it is no depth."""
        self.path = index.path
        self.topic = topic
        self.name = f"{readable(index.path.name)} {topic}"
        self.cache = index.cache
        self._messages = index.messages[topic]
        self._connection = index.topics[topic]
        self._reader = MessageReader(index.files, index.chunks)
        self._asked = asked
        self._bits = self._sensor_bits()

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        try:
            return to_rgb(self.message(index), least_bits=self._bits)
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
        message = self._first_message()
        if message is None:
            return ""
        return str(message.encoding if hasattr(message, "encoding") else message.format)

    def message(self, index: int) -> Any:
        """Read a message, as recorded but for 16UC1 that was asked for. Raises UserError if it cannot be read."""
        _, offset, size, chunk = self._messages[index].item()
        try:
            raw = self._reader.read(offset, size, chunk)
        except Exception as error:  # every storage and compression raises its own
            raise UserError(f"it cannot be read ({error}): the bag is damaged there or was changed.") from error
        message = _deserializer(self._connection)(raw)
        return as_intensity(message) if self._asked else message

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield the thumbnail of every frame, None where it does not decode."""
        threads = os.cpu_count() or 1
        with ThreadPool(threads) as pool:  # OpenCV releases the interpreter's lock to decode
            for start in range(0, len(self), 4 * threads):
                numbers = range(start, min(start + 4 * threads, len(self)))
                messages = [self._message_or_none(number) for number in numbers]
                yield from pool.map(functools.partial(_thumbnail, least_bits=self._bits), messages)

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

    def _sensor_bits(self) -> int:
        """Bits that 16-bit images use, 0 for other ones: by some from all over the recording, whatever the order."""
        bits = SensorBits(self.name)
        for number in evenly_spaced(len(self), LOOKED_AT):
            message = self._message_or_none(number)
            if message is not None and not bits.see(message):
                break
        return bits.bits

    def _first_message(self) -> Any:
        """The first message that can be read, None if there is none."""
        return next(filter(None, map(self._message_or_none, range(len(self)))), None)

    def _message_or_none(self, index: int) -> Any:
        try:
            return self.message(index)
        except UserError:
            return None


def _thumbnail(message: Any, least_bits: int) -> NDArray[np.uint8] | None:
    return None if message is None else thumbnail_of_message(message, least_bits)


_deserializer: Callable[[Connection], Callable[[bytes], Any]] = functools.cache(deserializer)
