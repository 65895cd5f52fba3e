"""The index of a bag: where the messages of every image topic lie, found once and cached."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bag_files import CHUNK, MESSAGE, find_messages
from dino_ros.images.bag_records import Connection
from dino_ros.images.bags import bag_files, broken_bag, image_topics, open_bag
from dino_ros.images.sqlite_files import complete_database
from dino_train.data.cache import Cache


@dataclass(frozen=True)
class BagIndex:
    """The image topics of a bag.

    Kept in arrays: Python objects would end up copied in every forked worker, since counting references writes to them.
    """

    path: Path
    files: tuple[Path, ...]
    topics: Mapping[str, Connection]
    """Every topic by name; only those of images and video with their definitions."""
    messages: Mapping[str, NDArray[np.void]]
    """Image topic -> its messages [N], dtype MESSAGE, in order of time."""
    chunks: NDArray[np.void]
    """[M], dtype CHUNK."""
    cache: Cache
    """Where this index is kept between runs."""


def index_bag(path: Path) -> BagIndex:
    """Index a bag, or read its index from the cache.

    Raises UserError as `open_bag` does, and for a bag whose files are compressed as a whole: that rules out random
    access.
    """
    files, packed = bag_files(path)
    if packed:
        raise UserError(
            f"{path} is compressed file by file, so single frames cannot be read from it: convert it with "
            "`ros2 bag convert` to a bag without compression, or with compression of messages."
        )
    try:
        files = tuple(complete_database(file) if file.suffix == ".db3" else file for file in files)
        cache = Cache(path, files)
    except Exception as error:  # what the operating system or SQLite raises
        raise broken_bag(path, error) from error
    arrays = cache.load(["topics", "chunks", "messages", "counts"])
    if not arrays:
        arrays = _build_index(path, files)
        cache.add(arrays)
    topics = {topic: Connection(topic, *fields) for topic, fields in json.loads(str(arrays["topics"])).items()}
    ends = np.cumsum(arrays["counts"]).tolist()
    messages = {
        topic: arrays["messages"][start:end]
        for topic, start, end in zip(_image_topics(topics), [0, *ends], ends, strict=False)
    }
    return BagIndex(path, files, topics, messages, arrays["chunks"], cache)


def _image_topics(topics: Mapping[str, Connection]) -> list[str]:
    return image_topics({name: topic.type for name, topic in topics.items()})


def _build_index(path: Path, files: tuple[Path, ...]) -> dict[str, NDArray[Any]]:
    """Walk a bag's files. Returns the arrays to cache.

    `topics` is JSON; `messages` holds those of the image topics, sorted by name, one after the other, and `counts` how
    many each topic has; `chunks` is of dtype CHUNK.
    """
    bag = open_bag(path)
    fields: dict[str, array[int]] = {topic: array("q") for topic in _image_topics(bag.topics)}
    chunks: list[tuple[Any, ...]] = []
    try:
        for message in find_messages(files, chunks):
            topic = message.connection.topic
            if topic in fields and bag.is_of(message, topic):
                fields[topic].extend(message[1:])
    except Exception as error:  # every storage and decompressor raises its own
        raise broken_bag(path, error) from error
    tables = [_messages(values) for values in fields.values()]
    topics = {name: topic[1:] if name in fields else topic[1:3] for name, topic in bag.topics.items()}
    return {
        "topics": np.array(json.dumps(topics)),
        "chunks": np.array(chunks, CHUNK),
        "counts": np.array([len(table) for table in tables], np.int64),
        "messages": np.concatenate([np.empty(0, MESSAGE), *tables]),
    }


def _messages(values: array[int]) -> NDArray[np.void]:
    """Messages [N], dtype MESSAGE, in order of time, from their fields one after the other."""
    names = MESSAGE.names or ()
    columns = np.frombuffer(values, np.int64).reshape(-1, len(names)).T
    table = np.empty(columns.shape[1], MESSAGE)
    for name, column in zip(names, columns, strict=True):
        table[name] = column
    return table[np.argsort(table["time"], kind="stable")]
