"""The student file: one self-describing ONNX file, all that training hands to the robot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dino_ros.errors import UserError
from dino_ros.external_weights import has_external_weights
from dino_ros.files import cache_folder, file_sha256, named_path, write_whole

if TYPE_CHECKING:
    import onnxruntime

FORMAT_VERSION = 1
METADATA_KEY = "dino_ros"
"""Key in the ONNX file's metadata_props that holds the description, as JSON."""
DEFAULT_STUDENT = "scenes_vit_small_20"
"""The bundled student that is used when none is named."""
MOST_MEMORY = 8 << 30
"""Bytes that a student may take for one image in ONNX Runtime; half of the machine's memory where that is less."""
FATAL, AS_REQUESTED = 4, 1
"""ONNX Runtime's numbers for logging fatal errors alone, and for memory that grows by what is asked for."""
AGAIN = "export the student again with `dino-train export`"
MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class StudentInfo:
    """A student file's description of itself."""

    format_version: int
    architecture: str
    patch_size: int
    """Side of a patch, in pixels."""
    embed_dim: int
    """C, the channels of features and embedding."""
    heads: int
    """Attention heads of the last block."""
    registers: int
    """Register tokens, which no output contains."""
    height: int
    """Of the input, in pixels."""
    width: int
    """Of the input, in pixels."""
    mean: tuple[float, ...]
    """Per RGB channel, of values in 0 to 1; applied inside the graph."""
    std: tuple[float, ...]
    """Per RGB channel, of values in 0 to 1; applied inside the graph."""
    precision: str
    """Of the weights: fp32 or fp16; int8 if the matrix products are quantized."""
    weights: dict[str, str | int | float]
    """Where the weights come from: source, data, steps, sha256."""
    license: str
    quantization: dict[str, str | int | float] = field(default_factory=dict)
    """What int8 cost, measured against the fp32 student: mean cosine of patch tokens, mask IoU, number of frames, and
    k-NN accuracy before and after if it was run. Empty for other precisions; older files lack it."""
    foreground_head: dict[str, str | int | float] = field(default_factory=dict)
    """How the head that computes the output `foreground` was made: labels, data, images. Empty if there is none."""
    good_for: str = ""
    """The scenes that it was made for and what it is not good for, in a sentence of its maker; older files lack it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch grid."""
        return self.height // self.patch_size, self.width // self.patch_size

    @property
    def purpose(self) -> str:
        """What to expect of it, to show to whoever runs it: `good_for`, else the data it was trained on, if known."""
        data = self.weights.get("data")
        return self.good_for or (f"scenes like those of {data}, which it was trained on" if data else "not stated")

    def to_json(self) -> str:
        """The description as it is stored in the file."""
        return json.dumps(dataclasses.asdict(self))


def read_student(path: Path) -> StudentInfo:
    """Read the description of a student file.

    Raises UserError if the file is missing, is not ONNX, takes weights from other files, has no description, has a
    newer format, or has other inputs and outputs than the description says.
    """
    if not path.is_file():
        raise UserError(f"There is no student file {path}: give the path of an .onnx file of `dino-train export`.")
    state = path.stat()
    return _read(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=8)
def _read(path: Path, state: tuple[int, int, int]) -> StudentInfo:
    """Read a file in this state; cached, because engine, gate and node all read it.

    To check a file takes ONNX Runtime a third of a second. The description of one that passed is kept in the user's
    cache, by the file's SHA-256, with the memory that it passed with.
    """
    cache, memory = cache_folder("students") / f"{file_sha256(path)}.json", _memory()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, UserError):  # none yet, or damaged: check again
        passed = json.loads(cache.read_text())
        if passed["memory"] <= memory:
            return _parse(path, passed["description"])
    description = _check(path)
    with contextlib.suppress(OSError):  # without a cache the file is checked again at the next start
        write_whole(cache, json.dumps({"memory": memory, "description": description}).encode())
    return _parse(path, description)


def _check(path: Path) -> str:
    """Load and run a student file; returns its description. Raises UserError as `read_student` does."""
    import onnxruntime  # takes its time, and other engines do without it

    _check_weights(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = FATAL
    _limit_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes private to its binding
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not an ONNX file that ONNX Runtime {onnxruntime.__version__} can load ({reason}): update "
            f"onnxruntime, or {AGAIN}."
        ) from error
    description = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if description is None:
        raise UserError(
            f"{path} is an ONNX file, but not a student of dino_ros (it has no {METADATA_KEY!r} metadata): make one "
            "with `dino-train export`."
        )
    info = _parse(path, description)
    _check_contract(path, info, session)
    _check_memory(path, info, session)
    return str(description)


def find_student(name_or_path: str) -> Path:
    """The path of a student, given its path, the name of a bundled one, or nothing for the default bundled one.

    Raises UserError, listing the bundled names, if there is none, or as `named_path` does.
    """
    path = named_path(name_or_path)
    if name_or_path and path.is_file():
        return path
    bundled = MODELS / f"{name_or_path or DEFAULT_STUDENT}.onnx"
    if bundled.is_file():
        return bundled
    names = ", ".join(sorted(file.stem for file in MODELS.glob("*.onnx")))
    raise UserError(
        f"There is no student {name_or_path!r}: give the path of an .onnx file, or the name of a bundled one ({names})."
    )


def _check_weights(path: Path) -> None:
    """Raise UserError if the file is not all there is of the student: the names of others may lead anywhere.

    ONNX Runtime 1.23, the last for Python 3.10, follows them out of the folder, and to addresses in memory.
    """
    try:
        external = has_external_weights(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an ONNX file that can be read ({error}): export the student again.") from error
    if external:
        raise UserError(
            f"{path} takes weights from other files, and a student is one file: export it again, or save it with its "
            "weights inside."
        )


def _parse(path: Path, description: str) -> StudentInfo:
    try:
        values: dict[str, Any] = json.loads(description)
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"The description in {path} is damaged: {AGAIN}.") from error
    if not _is_count(version):
        raise UserError(f"The description in {path} has the format {version!r}, which is not a number: {AGAIN}.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has student format {version}, this dino_ros reads {FORMAT_VERSION}: update dino_ros, or export "
            "the student with the version installed here."
        )
    fields = dataclasses.fields(StudentInfo)
    needed = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise UserError(f"The description in {path} lacks {', '.join(missing)}: {AGAIN}.")
    wrong = [
        *(name for name in ("patch_size", "embed_dim", "heads", "height", "width") if not _is_count(values[name])),
        *(name for name in ("architecture", "precision", "license") if not isinstance(values[name], str)),
        *([] if isinstance(values.get("good_for", ""), str) else ["good_for"]),
        *(name for name in ("mean", "std") if not isinstance(values[name], list) or len(values[name]) != 3),
        *(["registers"] if not _is_count(values["registers"], least=0) else []),
        *(
            name
            for name in ("weights", "quantization", "foreground_head")
            if not isinstance(values.get(name, {}), dict)
        ),
    ]
    if wrong:
        given = ", ".join(f"{name} {values[name]!r}" for name in wrong)
        raise UserError(f"The description in {path} has an impossible {given}: {AGAIN}.")
    values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
    return StudentInfo(**{field.name: values[field.name] for field in fields if field.name in values})


def _is_count(value: object, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _memory() -> int:
    """Bytes that a student may take for one image."""
    return min(MOST_MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


@lru_cache(maxsize=1)
def _limit_memory() -> None:
    """Limit the memory of sessions with the allocator of the environment to `_memory`, all of them together."""
    import onnxruntime

    cpu = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({"max_mem": _memory(), "arena_extend_strategy": AS_REQUESTED})
    onnxruntime.create_and_register_allocator(cpu, arena)


def _check_memory(path: Path, info: StudentInfo, session: onnxruntime.InferenceSession) -> None:
    """Raise UserError if the graph needs more memory than there is, which would end the process: runs it once."""
    import onnxruntime

    once = onnxruntime.RunOptions()
    once.log_severity_level = FATAL
    once.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")  # give the memory back
    try:
        session.run(None, {"images": np.zeros((1, info.height, info.width, 3), np.uint8)}, once)
    except Exception as error:  # onnxruntime raises classes private to its binding
        reason = str(error).splitlines()[0].rpartition(") ")[2]
        raise UserError(
            f"{path} cannot see an image with {_memory() / 1e9:.1f} GB of memory ({reason}): export the student again."
        ) from error


def _check_contract(path: Path, info: StudentInfo, session: onnxruntime.InferenceSession) -> None:
    """Raise UserError if inputs and outputs differ from the description, or the batch is not dynamic."""
    grid = list(info.grid)
    expected: dict[str, tuple[str, list[int]]] = {
        "images": ("tensor(uint8)", [info.height, info.width, 3]),
        "features": ("tensor(float)", [*grid, info.embed_dim]),
        "attention": ("tensor(float)", [info.heads, *grid]),
        "embedding": ("tensor(float)", [info.embed_dim]),
        **({"foreground": ("tensor(float)", grid)} if info.foreground_head else {}),
    }
    inputs = [node.name for node in session.get_inputs()]
    if inputs != ["images"]:
        raise UserError(f"{path} takes {', '.join(inputs)}, not images alone: {AGAIN}.")
    batch = session.get_inputs()[0].shape[0]
    if isinstance(batch, int):
        raise UserError(f"{path} takes batches of {batch} only, not of any size: {AGAIN}.")
    present = {node.name: (node.type, list(node.shape[1:])) for node in [*session.get_inputs(), *session.get_outputs()]}
    for name, (kind, shape) in expected.items():
        if name not in present:
            raise UserError(f"{path} has no input or output {name!r}: {AGAIN}.")
        if present[name] != (kind, shape):
            raise UserError(
                f"{name} of {path} is {present[name][0]} {present[name][1]} per image, but {kind} {shape} is "
                f"described: {AGAIN}."
            )
