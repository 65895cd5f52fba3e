"""The index of a bag: where the messages of every image topic lie, found once and cached."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.sources import IMAGE_TYPES, broken_bag, open_bag
from dino_train.data.cache import Cache
from dino_train.data.message_offsets import CHUNK, MESSAGE, find_messages


@dataclass(frozen=True)
class BagIndex:
    """The image topics of a bag.

    Kept in arrays: Python objects would end up copied in every forked worker, since counting references writes to them.
    """

    path: Path
    files: tuple[Path, ...]
    types: Mapping[str, str]
    """Topic -> message type, for every topic."""
    messages: Mapping[str, NDArray[np.void]]
    """Image topic -> its messages [N], dtype MESSAGE, in order of time."""
    chunks: NDArray[np.void]
    """[M], dtype CHUNK."""
    compressed_messages: bool
    """Whether each message is compressed by itself, with zstd."""
    cache: Cache
    """Where this index is kept between runs."""


def index_bag(path: Path) -> BagIndex:
    """Index a bag, or read its index from the cache.

    Raises UserError as `open_bag` does, and for a bag whose files are compressed as a whole: that rules out random
    access.
    """
    try:
        files, mode = _storage(path)
        cache = Cache(path, files)
    except Exception as error:  # metadata.yaml may be missing, or hold anything
        raise broken_bag(path, error) from error
    if mode == "file":
        raise UserError(
            f"{path} is compressed file by file, so single frames cannot be read from it: convert it with "
            "`ros2 bag convert` to a bag without compression, or with compression of messages."
        )
    arrays = cache.load(["types", "chunks", "messages", "counts"])
    if not arrays:
        arrays = _build_index(path, files)
        cache.add(arrays)
    types: dict[str, str] = json.loads(str(arrays["types"]))
    ends = np.cumsum(arrays["counts"]).tolist()
    messages = {
        topic: arrays["messages"][start:end]
        for topic, start, end in zip(_image_topics(types), [0, *ends], ends, strict=False)
    }
    return BagIndex(path, files, types, messages, arrays["chunks"], mode == "message", cache)


def _storage(path: Path) -> tuple[tuple[Path, ...], str]:
    """Files of a bag in their order, and its compression mode: "file", "message" or ""."""
    if path.is_file():
        return (path,), ""
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    files = tuple(path / PurePath(file).name for file in information["relative_file_paths"])
    return files, str(information.get("compression_mode") or "").lower()


def _image_topics(types: Mapping[str, str]) -> list[str]:
    return sorted(topic for topic, kind in types.items() if kind in IMAGE_TYPES)


def _build_index(path: Path, files: tuple[Path, ...]) -> dict[str, NDArray[Any]]:
    """Walk a bag's files. Returns the arrays to cache.

    `types` is JSON; `messages` holds those of the image topics, sorted by name, one after the other, and `counts` how
    many each topic has; `chunks` is of dtype CHUNK.
    """
    with closing(open_bag(path)) as reader:  # says what is wrong with a broken bag
        types = {c.topic: c.msgtype for c in reader.connections}
        ros1_topics = {c.id: c.topic for c in reader.connections}
    fields: dict[str, array[int]] = {topic: array("q") for topic in _image_topics(types)}
    chunks: list[tuple[Any, ...]] = []
    try:
        for topic, *message in find_messages(files, set(fields), ros1_topics, chunks):
            fields[topic].extend(message)
    except Exception as error:
        raise broken_bag(path, error) from error
    tables = [_messages(values) for values in fields.values()]
    return {
        "types": np.array(json.dumps(types)),
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
