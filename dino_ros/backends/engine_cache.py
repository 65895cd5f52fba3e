"""The cache of TensorRT engines: `<cache>/engines/<name>.engine`, each with a JSON file that says what it is.

An engine is a program: what TensorRT loads may do anything. So one that somebody else may have written is not loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dino_ros.backends import Report
from dino_ros.errors import UserError
from dino_ros.files import cache_folder, write_whole

T = TypeVar("T")
ANY_DEVICE = "any"
"""The device of an engine that runs on every GPU of its compute capability."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built for. An engine is used only if every field matches."""

    student: str
    """SHA-256 of the student file."""
    precision: str
    """Of the student."""
    height: int
    """Of the input, in pixels."""
    width: int
    """Of the input, in pixels."""
    largest_batch: int
    """The optimization profile covers batches of 1 up to this size."""
    variant: str
    """Python module of TensorRT: tensorrt or tensorrt_rtx."""
    version: str
    """Of TensorRT. Engines built by another version are not trusted, even if they load."""
    device: str
    """Name of the GPU, or ANY_DEVICE."""
    capability: str
    """Compute capability of the GPU, such as 8.6."""

    @property
    def name(self) -> str:
        """Name of the engine's files, without the suffix.

        Engines that may be needed side by side have different names. Another version of TensorRT does not change the
        name, so that an update replaces the engine.
        """
        device = "" if self.device == ANY_DEVICE else "-" + re.sub(r"\W+", "_", self.device.lower())
        capability = self.capability.replace(".", "")
        return f"{self.student[:16]}-{self.variant}-sm{capability}{device}-batch{self.largest_batch}"


@dataclass(frozen=True)
class EngineRecord:
    """What the JSON file says about its engine."""

    key: EngineKey
    build: str
    """Random for every build: two builds of the same key may not compute exactly the same."""
    seconds: float
    """Duration of the build."""
    bytes: int
    """Size of the engine file."""
    sha256: str
    """Of the engine file, to detect damage."""

    def to_json(self) -> str:
        """The content of the JSON file."""
        return json.dumps(dataclasses.asdict(self), indent=1)


class Stale(Exception):
    """The cache has no usable engine. The message says why; it is empty if there is no engine at all."""


def open_engine(
    key: EngineKey,
    label: str,
    build: Callable[[], bytes],
    load: Callable[[bytes], T],
    report: Report,
    folder: Path | None = None,
) -> tuple[T, EngineRecord]:
    """Load an engine from the cache, or build it and keep it there; returns what `load` returns, and the record.

    `label` names the engine in messages. `build` makes the engine's bytes and `load` takes them; both raise UserError.
    While one process builds, others that need the same engine wait for it. An engine that is damaged, was built for
    another key, may be somebody else's or is refused by `load` is rebuilt, with a sentence to `report`. If `folder`
    (default: the user's cache) cannot be written, the engine is used but not kept, again with a sentence to `report`.
    """
    folder = folder or cache_folder("engines")
    with contextlib.suppress(Stale):
        return _read(folder, key, load)
    with _only_builder(folder / f"{key.name}.lock", label, report):
        try:
            return _read(folder, key, load)  # built by another process meanwhile
        except Stale as stale:
            if str(stale):
                report(f"The {label} in the cache is not used: {stale}. It will be rebuilt.")
        started = time.monotonic()
        data = build()
        seconds = round(time.monotonic() - started, 1)
        record = EngineRecord(key, uuid.uuid4().hex[:8], seconds, len(data), hashlib.sha256(data).hexdigest())
        loaded = load(data)
        try:
            write_whole(engine_file(folder, key), data)
            write_whole(record_file(folder, key), record.to_json().encode())
        except OSError as error:
            report(f"The {label} cannot be kept in {folder} ({error.strerror}): it will be rebuilt at every start.")
        return loaded, record


def engine_file(folder: Path, key: EngineKey) -> Path:
    """Path of the engine with this key."""
    return folder / f"{key.name}.engine"


def record_file(folder: Path, key: EngineKey) -> Path:
    """Path of the JSON file of the engine with this key."""
    return folder / f"{key.name}.json"


def _read(folder: Path, key: EngineKey, load: Callable[[bytes], T]) -> tuple[T, EngineRecord]:
    """The engine with this key, checked. Raises Stale."""
    try:
        data = _read_own(engine_file(folder, key))
    except OSError as error:
        raise Stale from error
    try:
        values = json.loads(_read_own(record_file(folder, key)))
        record = EngineRecord(**{**values, "key": EngineKey(**values["key"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Stale("the file that describes it is missing or damaged") from error
    for field in dataclasses.fields(EngineKey):
        theirs, ours = getattr(record.key, field.name), getattr(key, field.name)
        if theirs != ours:
            raise Stale(f"it was built for {field.name.replace('_', ' ')} {theirs}, not {ours}")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise Stale("it is damaged")
    try:
        return load(data), record
    except UserError as error:
        raise Stale(str(error).rstrip(".")) from error


def _read_own(file: Path) -> bytes:
    """Content of a file that nobody else can have written. Raises Stale, and OSError if it cannot be read."""
    with file.open("rb") as opened:
        for place, state in ((file.parent, file.parent.stat()), (file, os.fstat(opened.fileno()))):
            if why := why_not_own(place, state):
                raise Stale(why)
        return opened.read()


def why_not_own(place: Path, state: os.stat_result) -> str:
    """Why somebody else may have written a file or a folder of this state, and what to do; empty if nobody can have.

    The user and root can. A group can, too: on many systems every user has one of his own.
    """
    if state.st_uid not in (os.geteuid(), 0):
        return f"{place} belongs to another user (number {state.st_uid}); remove it, or own it with `chown`"
    sticky = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX  # as /tmp: files stay their owners'
    if state.st_mode & stat.S_IWOTH and not sticky:
        return f"everybody may write to {place}; take that away with `chmod o-w`"
    return ""


@contextlib.contextmanager
def _only_builder(lock: Path, label: str, report: Report) -> Iterator[None]:
    """Hold the engine's lock; go on without it if the folder cannot be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock.open("w"))  # closing it releases the lock, however the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"Another process is building the {label}: waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
