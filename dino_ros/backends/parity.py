"""The parity gate: an engine may run a student only if it sees in images what ONNX Runtime sees in them."""

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
"""Folder of the images that engines are compared on: rendered ones, of the demo, which may ship."""


@dataclass(frozen=True)
class Parity:
    """How far two engines agree on the same student."""

    cosine: float
    """Mean cosine of their patch tokens, -1 to 1."""
    mask_iou: float
    """Mean intersection over union of the masks that keep 60 % of their attention, 0 to 1; of those of the student's
    head where they agree less."""

    def __str__(self) -> str:
        """As it stands in sentences."""
        return f"cosine of patch tokens {self.cosine:.4f}, mask IoU {self.mask_iou:.3f}"


TOLERANCE = Parity(cosine=0.99, mask_iou=0.9)
"""An engine that agrees less with ONNX Runtime is refused."""


def gate(path: Path, backend: Backend, images: Sequence[NDArray[np.uint8]] = ()) -> Parity:
    """Compare an engine with ONNX Runtime on the CPU, and raise UserError, with the numbers, if they disagree.

    `images` are RGB [H, W, 3] of any size (default: those that ship). For these a verdict is remembered in the user's
    cache, by the student's SHA-256 and the engine's description: an engine is compared once, not at every start.
    """
    remembered = cache_folder("parity") / f"{file_sha256(path)}.json"
    verdicts = _read(remembered)
    if not images and backend.description in verdicts:
        found = verdicts[backend.description]
    else:
        info = read_student(path)
        batch = prepare(images or shipped_images(), info.height, info.width)
        found = compare(backend, open_backend(REFERENCE, path), batch, bool(info.foreground_head))
        if not images:
            verdicts[backend.description] = found
            with contextlib.suppress(OSError):  # without a cache it is compared again at the next start
                write_whole(remembered, json.dumps({key: asdict(value) for key, value in verdicts.items()}).encode())
    if not (found.cosine >= TOLERANCE.cosine and found.mask_iou >= TOLERANCE.mask_iou):  # NaN is refused too
        raise UserError(
            f"{backend.description} sees something else in {path.name} than ONNX Runtime ({found}; at least "
            f"{TOLERANCE.cosine} and {TOLERANCE.mask_iou} are asked for): choose another backend, or export the "
            "student with --precision fp32."
        )
    return found


def compare(engine: Backend, reference: Backend, batch: NDArray[np.uint8], head: bool = False) -> Parity:
    """Run both on the images [B, H, W, 3], one at a time as on a robot, and measure how far they agree.

    `head` tells whether the student has one.
    """
    outputs = ("features", "attention", *(["foreground"] if head else []))
    cosines: list[float] = []
    ious: list[float] = []
    for image in batch:
        ours, theirs = (backend(image[None], outputs) for backend in (engine, reference))
        a, b = (np.asarray(seen["features"], dtype=np.float64) for seen in (ours, theirs))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append(float(np.mean((a * b).sum(axis=-1) / np.maximum(norms, 1e-12))))
        iou = _mask_iou(ours["attention"][0], theirs["attention"][0])
        if head:
            iou = min(iou, jaccard(ours["foreground"][0] > 0.5, theirs["foreground"][0] > 0.5))
        ious.append(iou)
    return Parity(float(np.mean(cosines)), float(np.mean(ious)))


def shipped_images() -> list[NDArray[np.uint8]]:
    """The images that ship with the package, RGB [H, W, 3]."""
    files = sorted(IMAGES.glob("*.jpg"))
    return [cv2.imread(str(file))[:, :, ::-1].astype(np.uint8) for file in files]  # type: ignore[index]


def prepare(images: Sequence[NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    """Images [H, W, 3] of any sizes as one batch [B, height, width, 3]."""
    return np.stack([resize(image, height, width) for image in images])


def _mask_iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    if not np.isfinite(ours).all():
        return 0.0
    return jaccard(attention_mask(ours), attention_mask(theirs))


def _read(path: Path) -> dict[str, Parity]:
    try:
        return {key: Parity(**value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: compare again
        return {}
