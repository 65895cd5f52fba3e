"""The parity gate: an engine may run a student only if its outputs agree with ONNX Runtime's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import REFERENCE, Backend, open_backend
from dino_ros.errors import UserError
from dino_ros.files import cache_folder, file_sha256, write_whole
from dino_ros.images.encodings import resize
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import jaccard
from dino_ros.student import MODELS, read_student

IMAGES = MODELS / "parity"
"""Folder of the images that engines are compared on: rendered frames of the demo, free to ship."""


@dataclass(frozen=True)
class Parity:
    """How well two engines agree on one student."""

    cosine: float
    """Mean cosine between their patch tokens, -1 to 1."""
    mask_iou: float
    """Mean intersection over union, 0 to 1, of the masks that keep 60 % of the attention; of the foreground head's
    masks where those agree less."""

    def __str__(self) -> str:
        return f"cosine of patch tokens {self.cosine:.4f}, mask IoU {self.mask_iou:.3f}"


TOLERANCE = Parity(cosine=0.99, mask_iou=0.9)
"""The least agreement with ONNX Runtime that is accepted, of engines and of quantized students."""


def gate(path: Path, backend: Backend, images: Sequence[NDArray[np.uint8]] = ()) -> Parity:
    """Compare an engine with ONNX Runtime on the CPU; raises UserError, with the numbers, if they disagree.

    `images` are RGB [H, W, 3] of any size; the default is the shipped ones. Results on the shipped images are kept in
    the user's cache, by the student's SHA-256 and the engine's description, so that an engine is compared once and not
    at every start.
    """
    cache = cache_folder("parity") / f"{file_sha256(path)}.json"
    results = _read(cache)
    if not images and backend.description in results:
        result = results[backend.description]
    else:
        info = read_student(path)
        batch = input_batch(images or shipped_images(), info.height, info.width)
        result = compare(backend, open_backend(REFERENCE, path), batch, bool(info.foreground_head))
        if not images:
            results[backend.description] = result
            with contextlib.suppress(OSError):  # without a cache the engine is compared again at the next start
                write_whole(cache, json.dumps({key: asdict(value) for key, value in results.items()}).encode())
    if not (result.cosine >= TOLERANCE.cosine and result.mask_iou >= TOLERANCE.mask_iou):  # refuses NaN too
        raise UserError(
            f"{backend.description} does not agree with ONNX Runtime on {path.name} ({result}; required are at least "
            f"{TOLERANCE.cosine} and {TOLERANCE.mask_iou}): choose another backend, or export the student with "
            "--precision fp32."
        )
    return result


def compare(engine: Backend, reference: Backend, batch: NDArray[np.uint8], foreground_head: bool = False) -> Parity:
    """Run both on the images [B, h, w, 3] of the student's size, one at a time as on a robot, and compare the outputs.

    `foreground_head` says whether the student has one.
    """
    outputs = ("features", "attention", *(["foreground"] if foreground_head else []))
    cosines: list[float] = []
    ious: list[float] = []
    for image in batch:
        ours, theirs = (backend(image[None], outputs) for backend in (engine, reference))
        a, b = (np.asarray(result["features"], dtype=np.float64) for result in (ours, theirs))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(float(np.mean((a * b).sum(axis=-1) / np.maximum(norms, 1e-12))))
        iou = _mask_iou(ours["attention"][0], theirs["attention"][0])
        if foreground_head:
            iou = min(iou, jaccard(ours["foreground"][0] > 0.5, theirs["foreground"][0] > 0.5))
        ious.append(iou)
    return Parity(float(np.mean(cosines)), float(np.mean(ious)))


def shipped_images() -> list[NDArray[np.uint8]]:
    """The images that ship with the package, RGB [H, W, 3]."""
    files = sorted(IMAGES.glob("*.jpg"))
    return [cv2.imread(str(file))[:, :, ::-1].astype(np.uint8) for file in files]  # type: ignore[index]


def input_batch(images: Sequence[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    """Images [H, W, 3] of any sizes, resized into one batch [B, height, width, 3]."""
    return np.stack([resize(image, height, width) for image in images])


def _mask_iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    if not np.isfinite(ours).all():
        return 0.0
    return jaccard(attention_mask(ours), attention_mask(theirs))


def _read(path: Path) -> dict[str, Parity]:
    try:
        return {key: Parity(**value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # no cache yet, or damaged: compare again
        return {}
