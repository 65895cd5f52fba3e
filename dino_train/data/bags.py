"""Topics of images in bags: frames at random, read straight from the recording."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bag_files import MessageReader
from dino_ros.images.bag_records import Connection
from dino_ros.images.bags import deserializer
from dino_ros.images.encodings import as_intensity, sensor_bits, tell_sensor_bits, to_rgb
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import readable
from dino_train.data.index import BagIndex
from dino_train.data.selection import thumbnail_of_message
from dino_train.machine.workers import cores

_READER = MessageReader()
LOOKED_AT = 32
"""16-bit images that tell how many bits a camera uses."""
LABELS = 8
"""Frames that tell whether a topic holds labels."""
LABEL_VALUES, COVERED, FLAT = 16, 0.95, 0.85
"""In a frame of labels, this many values cover that share of the pixels, and that share of the pixels is like its
neighbor. Masks that were compressed as JPEG reach 0.96 and 0.91; of photographs and frames of robots none had both,
even at 8 % of their brightness (0.98 and 0.77)."""


class BagFrames:
    """The frames of an image topic of a bag.

    A frame is read and decoded when it is asked for. Every process opens the bag's files for itself. In memory are the
    index, 24 bytes per frame, and what a `MessageReader` keeps, one for all bags.
    """

    def __init__(self, index: BagIndex, topic: str, asked: bool = False) -> None:
        """With `asked`, the topic was named, and 16UC1 on it is no depth."""
        self.path = index.path
        self.topic = topic
        self.name = f"{readable(index.path.name)} {topic}"
        self.cache = index.cache
        self._messages = index.messages[topic]
        self._connection = index.topics[topic]
        self.type = self._connection.type
        self._files = index.files
        self.chunks = index.chunks
        """Those of the bag [M], dtype CHUNK."""
        self._asked = asked
        _READER.forget(index.files)
        self._bits: int = self._found("bits", self._sensor_bits)
        tell_sensor_bits(self.name, self._bits)

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
    def chunk_of(self) -> NDArray[np.uint32]:
        """Number of the chunk that each frame lies in [N]."""
        return self._messages["chunk"]

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
            raw = _READER.read(self._files, self.chunks, offset, size, chunk)
        except Exception as error:  # every storage and compression raises its own
            raise UserError(f"it cannot be read ({error}): the bag is damaged there or was changed.") from error
        message = _deserializer(self._connection)(raw)
        return as_intensity(message) if self._asked else message

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield the thumbnail of every frame, None where it does not decode."""
        look = functools.partial(_thumbnail, least_bits=self._bits)
        threads = cores()
        with ThreadPool(threads) as pool:  # OpenCV releases the interpreter's lock to decode
            for start in range(0, len(self), 4 * threads):
                numbers = range(start, min(start + 4 * threads, len(self)))
                messages = [self._message_or_none(number) for number in numbers]
                yield from pool.map(look, messages)

    def why_not_images(self) -> str | None:
        """Why this topic holds no images, None if it does: tries the first message, and two more if that is damaged."""
        reason: str | None = self._found("problem", self._why_not_images)
        return reason

    def are_labels(self) -> bool:
        """Whether the frames are flat areas of a few values; those of a single value tell nothing."""
        return bool(self._found("labels", self._are_labels))

    def _why_not_images(self) -> str | None:
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

    def _are_labels(self) -> bool:
        told = False
        for number in evenly_spaced(len(self), LABELS):
            with contextlib.suppress(UserError):  # those that do not decode are counted elsewhere
                covered, flat = _look(self[number])
                if flat < 1:
                    if covered < COVERED or flat < FLAT:
                        return False
                    told = True
        return told

    def _sensor_bits(self) -> int:
        """Bits that 16-bit images use, 0 for other ones: by some from all over the recording, whatever the order."""
        most = 0
        for message in filter(None, map(self._message_or_none, evenly_spaced(len(self), LOOKED_AT))):
            with contextlib.suppress(UserError):  # whoever decodes it will say so
                if not (bits := sensor_bits(message)):
                    break
                most = max(most, bits)
        return most

    def _found(self, what: str, find: Callable[[], Any]) -> Any:
        """What was found out about the topic, from the cache if it has it."""
        name = f"{what} {self.topic}{' as gray' if self._asked else ''}"
        arrays = self.cache.load([name])
        if not arrays:
            arrays = {name: np.array(json.dumps(find()))}
            self.cache.add(arrays)
        return json.loads(str(arrays[name]))

    def _first_message(self) -> Any:
        """The first message that can be read, None if there is none."""
        return next(filter(None, map(self._message_or_none, range(len(self)))), None)

    def _message_or_none(self, index: int) -> Any:
        try:
            return self.message(index)
        except UserError:
            return None


def _look(rgb: NDArray[np.uint8]) -> tuple[float, float]:
    """Share of pixels of the LABEL_VALUES commonest colors, and share of pixels like the one to their left, 0 to 1."""
    colors = (rgb.astype(np.uint32) * np.array([65536, 256, 1], np.uint32)).sum(2)
    counts = np.unique(colors, return_counts=True)[1]
    counts = np.partition(counts, max(len(counts) - LABEL_VALUES, 0))
    return counts[-LABEL_VALUES:].sum() / colors.size, float((colors[:, 1:] == colors[:, :-1]).mean())


def _thumbnail(message: Any, least_bits: int) -> NDArray[np.uint8] | None:
    return None if message is None else thumbnail_of_message(message, least_bits)


_deserializer: Callable[[Connection], Callable[[bytes], Any]] = functools.cache(deserializer)
