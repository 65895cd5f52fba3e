"""The numbers of a bag's topic as named columns, and the messages that belong to given stamps.

Every number of a message has a name, the path of its fields: `pose.pose.position.x`. Of an array it is

* the joint's name, in a message with a list of names that is as long (JointState): `position.elbow`;
* the place in the array, where it has at most LONGEST elements: `poses.0.position.x`;
* a summary of the elements: `poses.count`, and per field `poses.mean.position.x`, `poses.min...`, `poses.max...`.

Where objects come and go, a place in the array is not always the same object, and the summaries are what can be asked
for: `poses.min.position.x` is the x of the leftmost, whichever that is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.sources import broken_bag, open_bag

LONGEST = 32
"""Elements of an array that get a name each, at most."""
SUMMARIES: Mapping[str, Callable[[list[float]], Any]] = {"mean": np.mean, "min": min, "max": max}
"""Of an array's elements, beside `count`."""
UNREAD = ("header", "__msgtype__")
"""Fields that say nothing about the world."""


@dataclass(frozen=True)
class Targets:
    """What the messages of a topic say."""

    stamps: NDArray[np.int64]
    """[N] in ns, ascending: the headers' stamps; of messages without one the times of recording."""
    columns: Mapping[str, NDArray[np.float64]]
    """Name -> [N], NaN in messages that have no such number. A quaternion's sign is such that w >= 0."""
    arrays: Mapping[str, frozenset[int]]
    """Name of an array without names for its elements -> the lengths that it has."""

    def choose(self, fields: Sequence[str]) -> list[str]:
        """Names of the columns under the named fields, `pose.position` for its x, y and z too.

        Raises UserError for a field that the messages do not have.
        """
        chosen = []
        for field in fields:
            found = [name for name in self.columns if name == field or name.startswith(f"{field}.")]
            if not found:
                listing = ", ".join(self.sensible() or self.columns)
                raise UserError(f"The messages have no number {field}: choose among {listing}.")
            chosen += found
        return list(dict.fromkeys(chosen))

    def sensible(self) -> list[str]:
        """Names of the columns that are worth predicting.

        These are the numbers that vary, and of arrays the elements where it is always as long and short enough, else
        the summaries. Covariances are left out: they belong to an estimate, not to the world.
        """
        return [
            name
            for name, values in self.columns.items()
            if varies(values) and "covariance" not in name and self._suits_its_arrays(name)
        ]

    def _suits_its_arrays(self, name: str) -> bool:
        for array, lengths in self.arrays.items():
            if name.startswith(f"{array}."):
                summary = name[len(array) + 1 :].split(".")[0] in {"count", *SUMMARIES}
                if summary != (len(lengths) > 1 or max(lengths) > LONGEST):
                    return False
        return True


def read_targets(bag: Path, topic: str) -> Targets:
    """Read every message of a topic.

    Raises UserError if the bag cannot be read, or if the topic is missing, has no messages or no numbers.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    lengths: dict[str, set[int]] = {}
    with closing(open_bag(bag)) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        if not connections:
            listing = ", ".join(sorted({c.topic for c in reader.connections}))
            raise UserError(f"{bag} has no topic {topic}: its topics are {listing or 'none'}.")
        try:
            for connection, time, raw in reader.messages(connections):
                message: Any = reader.deserialize(raw, connection.msgtype)
                rows.append((_stamp(message) or time, _of_message(message, "", lengths)))
        except Exception as error:  # each storage and deserializer has its own
            raise broken_bag(bag, error) from error
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    if not names:
        raise UserError(f"The topic {topic} of {bag} has no messages with numbers: choose another one.")
    rows.sort(key=lambda row: row[0])
    columns = {name: np.array([row.get(name, np.nan) for _, row in rows]) for name in names}
    stamps = np.array([stamp for stamp, _ in rows], np.int64)
    return Targets(stamps, columns, {array: frozenset(seen) for array, seen in lengths.items()})


def nearest(stamps: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `stamps` [N] the number of the nearest of `others` [M], ascending; -1 where none is near enough.

    Near enough is the median interval of the faster of the two: of a slow topic only the images beside a message
    count, of a fast one every image has its message.
    """
    tolerance = min((float(np.median(np.diff(one))) for one in (stamps, others) if len(one) > 1), default=0.0)
    after = np.searchsorted(others, stamps).clip(max=len(others) - 1)
    before = (after - 1).clip(min=0)
    found = np.where(np.abs(stamps - others[before]) <= np.abs(stamps - others[after]), before, after)
    return np.where(np.abs(others[found] - stamps) <= tolerance, found, -1)


def varies(values: NDArray[np.float64]) -> bool:
    """Whether those of the values [N] that are not NaN differ."""
    known = values[~np.isnan(values)]
    return bool((known != known[:1]).any())


def _stamp(message: Any) -> int:
    if not hasattr(message, "header"):
        return 0
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


def _of_message(message: Any, name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    """The numbers of a message called `name` by their names; adds the lengths of its arrays to `lengths`."""
    kind = message.__msgtype__
    if kind == "builtin_interfaces/msg/Time":
        return {}
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name not in UNREAD}
    if kind == "geometry_msgs/msg/Quaternion" and fields["w"] < 0:
        fields = {axis: -value for axis, value in fields.items()}
    labels: list[str] = next((value for value in fields.values() if _is_texts(value)), [])
    numbers: dict[str, float] = {}
    for field, value in fields.items():
        path = f"{name}.{field}" if name else field
        if isinstance(value, list | np.ndarray) and len(labels) == len(value) > 0:
            for label, element in zip(labels, value, strict=True):
                numbers |= _of_value(element, f"{path}.{label}", lengths)
        else:
            numbers |= _of_value(value, path, lengths)
    return numbers


def _of_value(value: Any, name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    if dataclasses.is_dataclass(value):
        return _of_message(value, name, lengths)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return {name: float(value) if np.isfinite(value) else np.nan}
    bytes_of_something = isinstance(value, np.ndarray) and value.dtype in (np.uint8, np.int8)
    if isinstance(value, list | np.ndarray) and not bytes_of_something and not _is_texts(value):
        return _of_array(value, name, lengths)
    return {}


def _of_array(values: list[Any] | NDArray[Any], name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    lengths.setdefault(name, set()).add(len(values))
    numbers = {f"{name}.count": float(len(values))}
    by_leaf: dict[str, list[float]] = {}
    for place, element in enumerate(values):
        path = f"{name}.{place}"
        leaves = _of_value(element, path, lengths)
        numbers |= leaves if place < LONGEST else {}
        for leaf, number in leaves.items():
            if f"{leaf.rpartition('.')[0]}.w" not in leaves and not np.isnan(number):  # no mean of quaternions
                by_leaf.setdefault(leaf[len(path) :], []).append(number)
    for leaf, found in by_leaf.items():
        numbers |= {f"{name}.{summary}{leaf}": float(of(found)) for summary, of in SUMMARIES.items()}
    return numbers


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)
