"""What `dino-ros engine` does: build TensorRT engines before the robot needs them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from dino_ros.backends import Report
from dino_ros.backends.choice import choose_backend
from dino_ros.backends.cuda_device import Device
from dino_ros.backends.engine_cache import ANY_DEVICE, EngineRecord, engine_file, open_engine
from dino_ros.backends.tensorrt import engine_key
from dino_ros.backends.tensorrt_build import RTX, TITLES, build_engine, load_variant
from dino_ros.errors import UserError
from dino_ros.files import cache_folder
from dino_ros.student import read_student


def engine_here(path: Path, backend: str, largest_batch: int, report: Report) -> str:
    """Build a student's engine for this machine's GPU, into the cache where the node finds it.

    `backend` is tensorrt or tensorrt_rtx (empty: the one that is installed). Returns the engine's description. Raises
    UserError as `choose_backend` does: without a GPU, when the engine cannot be built, and when it fails the parity
    gate.
    """
    installed = [name for name in TITLES if find_spec(name) is not None]
    return choose_backend(path, backend or [*installed, "tensorrt"][0], largest_batch, report).backend.description


def engines_for(
    path: Path, targets: Sequence[str], largest_batch: int, folder: Path | None, report: Report
) -> list[tuple[EngineRecord, Path]]:
    """Build a student's TensorRT-RTX engines for the compute capabilities `targets`, such as sm86. Needs no GPU.

    Each target gets an engine and a JSON file in `folder` (default: the cache, where a node on this machine finds
    them); engines that are already there are not built again. Returns each engine's record and file. Raises UserError
    for a target that TensorRT-RTX cannot build for, and when a build fails.
    """
    variant = load_variant(RTX)
    info = read_student(path)
    folder = folder or cache_folder("engines")
    known = {f"sm{capability.replace('.', '')}": capability for capability in variant.capabilities()}
    for target in targets:
        if target.lower() not in known:
            raise UserError(
                f"There is no target {target!r}: {variant.title} builds for {', '.join(known)}; give --target these."
            )
    built: list[tuple[EngineRecord, Path]] = []
    for capability in dict.fromkeys(known[target.lower()] for target in targets):
        key = engine_key(variant, path, info, largest_batch, Device(ANY_DEVICE, capability, driver=""))
        _, record = open_engine(
            key,
            f"{variant.title} engine of {path.name}",
            partial(build_engine, variant, path, info, largest_batch, capability, report),
            lambda data: data,
            report,
            folder,
        )
        built.append((record, engine_file(folder, key)))
    return built
