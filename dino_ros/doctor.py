"""What `dino-ros doctor` does: look at everything that the node needs on this machine, and say what to do about it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dino_ros.backends import REFERENCE, open_backend
from dino_ros.backends.cuda_device import Device, find_device
from dino_ros.backends.engine_cache import engine_file, why_not_own
from dino_ros.backends.parity import gate
from dino_ros.backends.tensorrt import engine_key
from dino_ros.backends.tensorrt_build import TITLES, load_variant
from dino_ros.errors import UserError
from dino_ros.files import cache_folder
from dino_ros.nodes.installation import describe_ros, middleware
from dino_ros.nodes.transport import DEFAULT_SEGMENT, PROFILE_VARIABLES, segment_size
from dino_ros.student import find_student, read_student

OK, WARNING, PROBLEM = "ok", "warning", "problem"
"""It works; it works, but not as well as it could; the node cannot work."""
SHARED_MEMORY = Path("/dev/shm")
MAPPED = 35_000_000
"""Bytes of shared memory that a process with the shipped profile takes."""
LOCK_OF_SEGMENT = re.compile(r"(?P<segment>(?P<kind>fastrtps|fastdds)_[0-9a-f]{16})_el")
"""File that Fast DDS locks while the process that made the segment lives; named fastdds from Kilted on."""
YOUNGEST = 10.0
"""Seconds of age from which on such a file is locked, or its process has ended: it is made first, and then locked."""
DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvhost-gpu", "/dev/nvmap")
"""What is there where there is an NVIDIA driver, of a PC or of a Jetson."""
CACHES = {
    "engines": "engines are built again at every start",
    "parity": "engines are compared again at every start",
    "recordings": "recordings are indexed again every time",
}
"""What is cached, and what happens without."""


class Finding(NamedTuple):
    """One line of what was found."""

    level: str
    """OK, WARNING or PROBLEM."""
    subject: str
    sentence: str
    """What was found, and what to do about it."""


def examine(model: str) -> Iterator[Finding]:
    """Yield what is found, one after the other; some of it takes seconds.

    `model` names the student, as the node's parameter does. Nothing is built or changed; that an engine agrees with
    ONNX Runtime is remembered, as when the node starts.
    """
    try:
        found = middleware()
        yield checked("ROS", partial(describe_ros, found))
        yield checked("DDS profile", partial(profile, found, os.environ), WARNING)
    except UserError as error:
        yield Finding(PROBLEM, "ROS", str(error))
    yield checked("shared memory", shared_memory)
    yield checked("left behind", left_behind, WARNING)
    yield checked("other users", other_users, WARNING)
    device = None
    try:
        device = find_device()
        yield Finding(OK, "GPU", f"{device.name}, compute capability {device.capability}, CUDA {device.driver}")
    except UserError as error:
        present = any(Path(driver).exists() for driver in DRIVERS)
        without = "there is no NVIDIA driver: the student runs on the CPU"
        yield Finding(WARNING, "GPU", str(error)) if present else Finding(OK, "GPU", without)
    student = checked("student", partial(describe_student, model))
    yield student
    if student.level == OK:
        yield from engines(find_student(model), device)
    for kind in CACHES:
        yield checked(f"cache {kind}", partial(cache, kind), WARNING)


def checked(subject: str, check: Callable[[], str], otherwise: str = PROBLEM) -> Finding:
    """What a check returns, or the level `otherwise` with the sentence of what it raises."""
    try:
        return Finding(OK, subject, check())
    except UserError as error:
        return Finding(otherwise, subject, str(error))
    except Exception as error:  # of a library that is installed and broken
        return Finding(otherwise, subject, f"{type(error).__name__}: {error}: install again what it names.")


def profile(middleware: str, environment: Mapping[str, str]) -> str:
    """Which profile Fast DDS uses. Raises UserError where it loses large frames."""
    if "fastrtps" not in middleware:
        return f"{middleware} has none; docs/transport.md is about Fast DDS"
    named = [environment[variable] for variable in PROFILE_VARIABLES if environment.get(variable)]
    if not named:
        raise UserError(
            "There is none in this shell, so a camera that is started from it loses frames of more than 512 KB: set "
            f"{' and '.join(PROFILE_VARIABLES)} as docs/transport.md says; the launch files do it by themselves."
        )
    size = segment_size(Path(named[0]))
    if size <= DEFAULT_SEGMENT:
        raise UserError(
            f"{named[0]} has a shared-memory segment of {size // 1024} KB, so larger frames are lost: take the "
            "segment_size of config/fastdds.xml."
        )
    return f"{named[0]}, segment of {size // 2**20} MB"


def shared_memory() -> str:
    """How much of it there is. Raises UserError if it is too little for two processes."""
    if not SHARED_MEMORY.is_dir() or not os.access(SHARED_MEMORY, os.W_OK):
        raise UserError(f"{SHARED_MEMORY} cannot be written, so large frames are lost: mount a tmpfs there.")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < 2 * MAPPED:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB left, and each process takes {MAPPED / 1e6:.0f}: run a container "
            "with --shm-size=1g, or remove what killed processes left behind with `fastdds shm clean`."
        )
    return f"{free / 1e6:.0f} MB left in {SHARED_MEMORY}"


def left_behind() -> str:
    """Raises UserError if killed processes left segments of Fast DDS in the shared memory."""
    size, kinds = 0, set()
    for lock in SHARED_MEMORY.glob("*_el"):
        with contextlib.suppress(OSError):  # it is another user's, or has gone meanwhile
            if (found := LOCK_OF_SEGMENT.fullmatch(lock.name)) and is_free(lock):
                size += lock.with_name(found["segment"]).stat().st_blocks * 512
                kinds.add(f"{found['kind']}_*")
    if kinds:
        raise UserError(
            f"{size / 1e6:.0f} MB of {SHARED_MEMORY} were left by processes that were killed "
            f"({', '.join(sorted(kinds))}): run `fastdds shm clean` of their ROS, which spares what is in use."
        )
    return "no killed process left its shared memory"


def is_free(lock: Path) -> bool:
    """Whether the process that made a lock file of Fast DDS has ended. Raises OSError if it cannot be told.

    The file is locked for a moment, as other processes of Fast DDS do to find out.
    """
    if time.time() - lock.stat().st_mtime < YOUNGEST:
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def other_users() -> str:
    """Raises UserError if other users' ROS processes are there, which share no memory with one's own."""
    segments = [path for path in SHARED_MEMORY.glob("fast*") if not os.access(path, os.R_OK | os.W_OK)]
    if segments:
        raise UserError(
            f"{len(segments)} segments of Fast DDS in {SHARED_MEMORY} belong to other users, whose frames do not "
            "arrive: run all ROS processes as one user."
        )
    return "none of their ROS processes shares this memory"


def describe_student(model: str) -> str:
    """Which student is used. Raises UserError if it cannot be."""
    path = find_student(model)
    info = read_student(path)
    return f"{path}, {info.architecture}, {info.precision}, {info.width}x{info.height}; good for {info.purpose}"


def engines(student: Path, device: Device | None) -> Iterator[Finding]:
    """Which engines run a student; those for GPUs only where there is one."""

    def description(name: str) -> str:
        backend = open_backend(name, student)
        return backend.description if name == REFERENCE else f"{backend.description}; {gate(student, backend)}"

    if device is not None:
        installed = [name for name in TITLES if find_spec(name)]
        for name in installed:
            yield checked(name, partial(built, name, student, device), WARNING)
        if not installed:
            yield Finding(WARNING, "tensorrt", "TensorRT is not installed: docs/jetson.md says how.")
            yield checked("onnxruntime_cuda", partial(description, "onnxruntime_cuda"), WARNING)
    yield checked("openvino", partial(description, "openvino"), WARNING)
    yield checked(REFERENCE, partial(description, REFERENCE))


def built(name: str, student: Path, device: Device) -> str:
    """Where the engine of TensorRT or TensorRT-RTX for one camera is. Raises UserError if it is not built yet."""
    variant = load_variant(name)
    file = engine_file(cache_folder("engines"), engine_key(variant, student, read_student(student), 1, device))
    if not file.is_file():
        raise UserError(
            f"{variant.title} has no engine of {student.name} for this GPU, and takes minutes to build it at the first "
            f"start: run `dino-ros engine {student}`."
        )
    return f"{variant.title}, {file}"


def cache(kind: str) -> str:
    """Where something is cached. Raises UserError if it cannot be, or if what is there is not trusted."""
    folder = cache_folder(kind)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{there} cannot be written, so {CACHES[kind]}: make it a folder of yours, or name another with "
            "XDG_CACHE_HOME."
        )
    if kind == "engines":  # which are programs
        for place in [folder, *sorted(folder.glob("*.engine"))] if folder.is_dir() else []:
            if why := why_not_own(place, place.stat()):
                raise UserError(f"Engines are not loaded, since {why}.")
    return str(folder)
