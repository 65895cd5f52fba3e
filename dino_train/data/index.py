"""The index of a bag: where the images of every image topic lie, looked up once."""

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
from dino_train.data.storages import BLOCK, FRAME, find_places


@dataclass(frozen=True)
class BagIndex:
    """The image topics of a bag. Arrays, because workers would copy objects one by one as they count references."""

    path: Path
    files: tuple[Path, ...]
    types: Mapping[str, str]
    """Topic -> message type, of every topic."""
    frames: Mapping[str, NDArray[np.void]]
    """Image topic -> its messages [N], dtype FRAME, in the order of their times."""
    blocks: NDArray[np.void]
    """[M], dtype BLOCK."""
    compressed_messages: bool
    """Whether every message is compressed for itself, with zstd."""
    cache: Cache
    """What keeps this index between runs."""


def index_bag(path: Path) -> BagIndex:
    """Look up the image topics of a bag, in the cache if they are there.

    Raises UserError as `open_bag` does, and for a bag that is compressed as whole files, which has no random access.
    """
    try:
        files, mode = _storage(path)
        cache = Cache(path, files)
    except Exception as error:  # metadata.yaml may hold anything, or be missing
        raise broken_bag(path, error) from error
    if mode == "file":
        raise UserError(
            f"{path} is compressed as whole files, out of which no frame can be read alone: convert it with "
            "`ros2 bag convert` to a bag without compression, or with that of messages."
        )
    arrays = cache.load(["types", "blocks", "frames", "counts"])
    if not arrays:
        arrays = _look_up(path, files)
        cache.add(arrays)
    types: dict[str, str] = json.loads(str(arrays["types"]))
    ends = np.cumsum(arrays["counts"]).tolist()
    frames = {
        topic: arrays["frames"][start:end]
        for topic, start, end in zip(_image_topics(types), [0, *ends], ends, strict=False)
    }
    return BagIndex(path, files, types, frames, arrays["blocks"], mode == "message", cache)


def _storage(path: Path) -> tuple[tuple[Path, ...], str]:
    """Files of a bag in their order, and its compression mode: file, message or nothing."""
    if path.is_file():
        return (path,), ""
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    files = tuple(path / PurePath(file).name for file in information["relative_file_paths"])
    return files, str(information.get("compression_mode") or "").lower()


def _image_topics(types: Mapping[str, str]) -> list[str]:
    return sorted(topic for topic, kind in types.items() if kind in IMAGE_TYPES)


def _look_up(path: Path, files: tuple[Path, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of the index: `types` as JSON, `blocks`, the image topics' `frames` one after the other, and `counts`."""
    with closing(open_bag(path)) as reader:  # says what is wrong with a broken bag
        types = {c.topic: c.msgtype for c in reader.connections}
        numbers = {c.id: c.topic for c in reader.connections}
    fields: dict[str, array[int]] = {topic: array("q") for topic in _image_topics(types)}
    blocks: list[tuple[Any, ...]] = []
    try:
        for topic, *place in find_places(files, set(fields), numbers, blocks):
            fields[topic].extend(place)
    except Exception as error:
        raise broken_bag(path, error) from error
    tables = [_frames(values) for values in fields.values()]
    return {
        "types": np.array(json.dumps(types)),
        "blocks": np.array(blocks, BLOCK),
        "counts": np.array([len(table) for table in tables], np.int64),
        "frames": np.concatenate([np.empty(0, FRAME), *tables]),
    }


def _frames(values: array[int]) -> NDArray[np.void]:
    """Table [N], dtype FRAME, in the order of time, of its fields one after the other."""
    names = FRAME.names or ()
    columns = np.frombuffer(values, np.int64).reshape(-1, len(names)).T
    table = np.empty(columns.shape[1], FRAME)
    for name, column in zip(names, columns, strict=True):
        table[name] = column
    return table[np.argsort(table["time"], kind="stable")]
