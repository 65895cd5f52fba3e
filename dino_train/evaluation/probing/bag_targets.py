"""Targets for probes: the numeric fields of a bag's topic as named columns, and the messages nearest to given stamps.

A target is named by the path of its field: `pose.pose.position.x`. For an array there is

* the joint's name, in a message with a list of names of the same length (JointState): `position.elbow`;
* the index, for the first LONGEST elements: `poses.0.position.x`;
* a summary of all elements: `poses.count`, and for each field `poses.mean.position.x`, `poses.min...`, `poses.max...`.

Where objects come and go, an index is not always the same object, and only the summaries make sense:
`poses.min.position.x` is the x of the leftmost object, whichever that is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bags import deserializer, open_bag
from dino_ros.images.stamps import stamp_ns

LONGEST = 32
"""Elements of an array that get a target of their own, at most."""
SUMMARIES: Mapping[str, Callable[[list[float]], Any]] = {"mean": np.mean, "min": min, "max": max}
"""Summaries of an array's elements, besides `count`."""
UNREAD = ("header", "__msgtype__")
"""Fields that say nothing about the world."""


@dataclass(frozen=True)
class Targets:
    """The numeric fields of a topic's N messages."""

    stamps: NDArray[np.int64]
    """[N] in ns, ascending: from the headers, or the times of recording of messages without one."""
    columns: Mapping[str, NDArray[np.float64]]
    """Name -> values [N], NaN in messages without the field. Quaternions are flipped to w >= 0."""
    arrays: Mapping[str, frozenset[int]]
    """Name of an array whose elements have no names -> the lengths that it takes."""

    def select(self, fields: Sequence[str]) -> list[str]:
        """Names of the targets at or below the given fields: `pose.position` selects its x, y and z.

        Raises UserError for a field that no message has.
        """
        selected = []
        for field in fields:
            below = [name for name in self.columns if name == field or name.startswith(f"{field}.")]
            if not below:
                listing = ", ".join(self.informative() or self.columns)
                raise UserError(f"The messages have no numeric field {field}: give --fields that are among {listing}.")
            selected += below
        return list(dict.fromkeys(selected))

    def informative(self) -> list[str]:
        """Names of the targets that are worth predicting.

        They vary, and are elements of an array only if it is short and always of the same length; other arrays are
        represented by their summaries. Covariances are left out: they describe an estimate, not the world.
        """
        return [
            name
            for name, values in self.columns.items()
            if varies(values) and "covariance" not in name and self._represents_its_arrays(name)
        ]

    def _represents_its_arrays(self, name: str) -> bool:
        for array, lengths in self.arrays.items():
            if name.startswith(f"{array}."):
                is_summary = name[len(array) + 1 :].split(".")[0] in {"count", *SUMMARIES}
                if is_summary != (len(lengths) > 1 or max(lengths) > LONGEST):
                    return False
        return True


def read_targets(bag: Path, topic: str) -> Targets:
    """Read every message of a topic.

    Raises UserError if the bag cannot be read, or if the topic is missing, has no messages or no numeric fields.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    lengths: dict[str, set[int]] = {}
    opened = open_bag(bag)
    if topic not in opened.topics:
        raise UserError(f"{bag} has no topic {topic}: its topics are {', '.join(sorted(opened.topics)) or 'none'}.")
    deserialize = deserializer(opened.topics[topic])
    for time, raw in opened.messages(topic):
        message = deserialize(raw)
        stamp = stamp_ns(message) if hasattr(message, "header") else 0
        rows.append((stamp or time, _message_values(message, "", lengths)))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    if not names:
        raise UserError(f"The topic {topic} of {bag} has no numeric fields, or no messages: give another --target.")
    rows.sort(key=lambda row: row[0])
    columns = {name: np.array([row.get(name, np.nan) for _, row in rows]) for name in names}
    stamps = np.array([stamp for stamp, _ in rows], np.int64)
    return Targets(stamps, columns, {array: frozenset(seen) for array, seen in lengths.items()})


def nearest(stamps: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `stamps` [N] the index of the nearest of `others` [M], ascending; -1 where none is close enough.

    The limit is the median interval of the faster of the two: only the images close to a message of a slow topic
    count, while with a fast topic every image has its message.
    """
    tolerance = min((float(np.median(np.diff(one))) for one in (stamps, others) if len(one) > 1), default=0.0)
    after = np.searchsorted(others, stamps).clip(max=len(others) - 1)
    before = (after - 1).clip(min=0)
    closest = np.where(np.abs(stamps - others[before]) <= np.abs(stamps - others[after]), before, after)
    return np.where(np.abs(others[closest] - stamps) <= tolerance, closest, -1)


def varies(values: NDArray[np.float64]) -> bool:
    """Whether the values [N] differ, apart from NaN."""
    known = values[~np.isnan(values)]
    return bool((known != known[:1]).any())


def _message_values(message: Any, name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    """Values in a message called `name`, by target; adds the lengths of its arrays to `lengths`."""
    kind = message.__msgtype__
    if kind == "builtin_interfaces/msg/Time":
        return {}
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name not in UNREAD}
    if kind == "geometry_msgs/msg/Quaternion" and fields["w"] < 0:
        fields = {axis: -value for axis, value in fields.items()}
    element_names: list[str] = next((value for value in fields.values() if _is_strings(value)), [])
    values: dict[str, float] = {}
    for field, value in fields.items():
        path = f"{name}.{field}" if name else field
        if isinstance(value, list | np.ndarray) and len(element_names) == len(value) > 0:
            for element_name, element in zip(element_names, value, strict=True):
                values |= _field_values(element, f"{path}.{element_name}", lengths)
        else:
            values |= _field_values(value, path, lengths)
    return values


def _field_values(value: Any, name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    if dataclasses.is_dataclass(value):
        return _message_values(value, name, lengths)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return {name: float(value) if np.isfinite(value) else np.nan}
    is_bytes = isinstance(value, np.ndarray) and value.dtype in (np.uint8, np.int8)
    if isinstance(value, list | np.ndarray) and not is_bytes and not _is_strings(value):
        return _array_values(value, name, lengths)
    return {}


def _array_values(array: list[Any] | NDArray[Any], name: str, lengths: dict[str, set[int]]) -> dict[str, float]:
    lengths.setdefault(name, set()).add(len(array))
    values = {f"{name}.count": float(len(array))}
    by_field: dict[str, list[float]] = {}
    for index, element in enumerate(array):
        path = f"{name}.{index}"
        leaves = _field_values(element, path, lengths)
        values |= leaves if index < LONGEST else {}
        for leaf, value in leaves.items():
            if f"{leaf.rpartition('.')[0]}.w" not in leaves and not np.isnan(value):  # the mean of quaternions is none
                by_field.setdefault(leaf[len(path) :], []).append(value)
    for field, elements in by_field.items():
        values |= {f"{name}.{summary}{field}": float(of(elements)) for summary, of in SUMMARIES.items()}
    return values


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)
