"""Files and folders with weights, read by their content: tensors by name, and what stands beside them.

Nothing in a file is executed: torch's files are unpickled to tensors and plain values only, and safetensors holds
nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from dino_ros.errors import UserError

ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".onnx", ".npz")
"""Endings of files; a name that has none of them and does not exist is timm's."""
LOCAL = "local-dir:"
"""How timm marks a folder; both with and without it are understood."""
IN_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
"""Files with weights in Hugging Face folders, the first that is there is read; an index lists several files."""

_scalar = np.float64(0).__reduce__()[0]
PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    # An optimizer's learning rate and weight decay may be NumPy scalars; NumPy 2 moved their constructor.
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]
"""Types in published training checkpoints besides tensors, strings and numbers. None of them runs code."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a file or folder."""

    path: Path
    """Of the file, or of the folder."""
    state: dict[str, Tensor]
    """All tensors; the names of nested ones are joined by dots, such as `model.blocks.0.norm1.weight`."""
    config: dict[str, Any] = field(default_factory=dict)
    """The config.json beside the weights, of transformers, timm or OpenCLIP; of a model with several parts, that of its
    image encoder."""
    mean: tuple[float, ...] | None = None
    """Per RGB channel, of values in 0 to 1, where a file beside the weights states it."""
    std: tuple[float, ...] | None = None
    """See `mean`."""
    license: str = ""
    """As a file beside the weights states it."""


STRANGE = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What code that expects something else in a file may raise."""


@contextmanager
def strange_contents(path: Path) -> Iterator[None]:
    """Turn an error that a file's contents cause in the block, in whatever way they are strange, into a UserError."""
    try:
        yield
    except STRANGE as error:
        reason = " ".join(str(error).split())[:120] or "no reason given"
        raise UserError(
            f"{path} has the names of known weights but other contents ({type(error).__name__}: {reason}): "
            "give another file."
        ) from error


def check_finite(weights: Mapping[str, Any], path: Path) -> None:
    """Raise UserError if one of the tensors among `weights` holds NaN or infinite values."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise UserError(
                f"{path} holds values that are not finite, in {name}: it comes from a run that diverged, give another "
                "file, or an earlier checkpoint of that run."
            )


def find_weights(name: str) -> Path | None:
    """Path of the file or folder that `name` stands for; None for a name of timm.

    Raises UserError for a path that does not exist.
    """
    path = Path(name.removeprefix(LOCAL))
    if path.is_file() or path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path} is neither a file nor a folder: give the path of weights.")
    if name.startswith(LOCAL) or (":" not in name and ("/" in name or name.endswith(ENDINGS))):
        raise UserError(
            f"There is no weights file or folder {path}: give its path, a timm name such as vit_small_patch14_dinov2, "
            "or hf-hub:OWNER/NAME for a timm model on the Hugging Face hub."
        )
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of `dino-train`, whatever its name; nothing is unpickled."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zip_archive(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return any(b"format_version" in archive.read(name) for name in pickles)


def check_intact(file: Path) -> None:
    """Raise UserError if bytes of a file of `torch.save` have changed: it holds checksums, which torch ignores."""
    if zipfile.is_zipfile(file):
        with zip_archive(file) as archive:
            if changed := archive.testzip():
                raise zipfile.BadZipFile(changed)


@contextlib.contextmanager
def zip_archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, as `torch.save` writes them; raises UserError if it turns out to be damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # zipfile has a dozen of them for damaged archives
        raise UserError(f"{file} is damaged, its bytes do not fit its checksums: copy or download it again.") from error


def read_weights(path: Path) -> WeightFile:
    """Read a file or a folder; raises UserError if it cannot be read safely or holds no tensors."""
    file = weights_in(path) if path.is_dir() else path
    folder = file.parent if path.is_dir() or file.name in IN_FOLDERS else None
    state: dict[str, Tensor] = {}
    for part in parts_of(file):
        state |= flat(read_tensors(part))
    if not state:
        raise UserError(f"{file} holds no weights: give a file or folder with those of a ViT.")
    return WeightFile(path, state, **(beside(folder) if folder else {}))


def weights_in(folder: Path) -> Path:
    """The file with weights in a folder; raises UserError if there is none, or several without an index."""
    for name in IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith(ENDINGS)]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"The folder {folder} must hold one file of weights but has {found}: name the file itself.")
    return files[0]


def parts_of(file: Path) -> list[Path]:
    """The files that an index lists, or the file itself."""
    if not file.name.endswith(".index.json"):
        return [file]
    names = sorted(set(read_json(file).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not (file.parent / name).is_file():
            raise UserError(f"{file} lists {name}, which is not beside it: download the folder again.")
    return [file.parent / name for name in names]


def read_tensors(file: Path) -> dict[Any, Any]:
    """Read a file of safetensors or of torch, recognized by its first bytes."""
    if start_of(file).startswith(b"version https://git-lfs"):
        raise UserError(f"{file} is only Git LFS's pointer to the weights: fetch them with `git lfs pull`.")
    if is_safetensors(file):
        try:
            tensors: dict[Any, Any] = safetensors.torch.load_file(file)
        except Exception as error:
            raise UserError(f"{file} is a damaged safetensors file: download it again.") from error
        return tensors
    return read_pickled(file)


def start_of(file: Path) -> bytes:
    """The first bytes of a file."""
    with file.open("rb") as opened:
        return opened.read(64)


def is_safetensors(file: Path) -> bool:
    """Whether a file is of safetensors: the length of its JSON head, and the head."""
    return start_of(file)[8:9] == b"{"


def read_pickled(file: Path) -> dict[Any, Any]:
    """Read a file of `torch.save`; raises UserError if it is another file or holds more than plain values."""
    check_intact(file)
    if zipfile.is_zipfile(file):
        with zip_archive(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise UserError(
                    f"{file} is a TorchScript program, as OpenAI publishes CLIP, and would have to be executed: give "
                    "the same model's Hugging Face folder, or its timm name."
                )
    try:
        # An opened file, since torch takes a path that ends in .safetensors for one.
        with torch.serialization.safe_globals(PLAIN_VALUES), file.open("rb") as opened:
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{file} is not a weights file that can be read safely, it is truncated, of another format, or holds more "
            "than tensors and plain values: give one of torch or safetensors."
        ) from error
    return content if isinstance(content, dict) else {}


def flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """Tensors of nested dictionaries under names joined by dots."""
    found: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
    return found


def beside(folder: Path) -> dict[str, Any]:
    """What files beside the weights state: fields of `WeightFile`."""
    config = read_json(folder / "config.json") or read_json(folder / "open_clip_config.json")
    license = str(config.get("pretrained_cfg", {}).get("license") or license_in(folder / "README.md"))
    stated = (
        config.get("pretrained_cfg", {}),
        config.get("preprocess_cfg", {}),
        read_json(folder / "preprocessor_config.json"),
    )
    facts: dict[str, Any] = {"config": config.get("vision_config", config), "license": license}
    for name in ("mean", "std"):
        for values in (values for place in stated for values in (place.get(name), place.get(f"image_{name}"))):
            if isinstance(values, list) and len(values) == 3:
                facts[name] = tuple(float(value) for value in values)
    return facts


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file; empty if there is no file. Raises UserError for one that is damaged."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: download the folder again.") from error
    return content if isinstance(content, dict) else {}


def license_in(card: Path) -> str:
    """License that the head of a model card states; "" if it states none."""
    head = dict(card_lines(card))
    named = head.get("license_name", "") if head.get("license") == "other" else ""
    return named or head.get("license", "")


def card_lines(card: Path) -> Iterator[tuple[str, str]]:
    """Names and values in the YAML head of a model card, between its two lines of dashes."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    for line in text.split("---")[1].splitlines() if text.startswith("---") else []:
        if match := re.fullmatch(r"(\w+):\s*(\S+)\s*", line):
            yield match[1], match[2].strip("\"'")
