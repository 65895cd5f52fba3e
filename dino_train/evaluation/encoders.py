"""Encoders to evaluate: ViTs in torch and student files behind one interface."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.perception.perceiver import Perceiver, Perception
from dino_ros.student import MODELS, find_student, read_student
from dino_train.data.images import decode
from dino_train.data.multicrop import normalize
from dino_train.machine.progress import watched
from dino_train.models.backbones import VitOutputs, mean_and_std, patch_size
from dino_train.models.weight_files import find_weights
from dino_train.models.weights import open_weights, random_like

RANDOM = "random"
SEED = 0
"""Seeds random weights."""
BATCH = 16
"""Whole images that go through a ViT in torch together."""


class Encoder(Protocol):
    """What runs on an RGB image [H, W, 3] uint8: a `Perceiver`, or a `TorchEncoder`."""

    def __call__(self, image: NDArray[np.uint8], /, outputs: Collection[str]) -> Perception:
        """Return the requested outputs, among "features", "attention" and "embedding"."""


class TorchEncoder:
    """A ViT in torch, in evaluation mode on its device.

    Images are resized to `size`, height and width in pixels, or keep their own size where it is None; either is rounded
    to multiples of the patch size.
    """

    def __init__(self, vit: VisionTransformer, size: tuple[int, int] | None = None) -> None:
        self.vit = vit.eval()
        self.size = size
        self._outputs = VitOutputs(self.vit)
        self._mean, self._std = mean_and_std(vit)

    def __call__(self, image: NDArray[np.uint8], outputs: Collection[str]) -> Perception:
        """Return the requested outputs as float32: features [h, w, C], attention [heads, h, w], embedding [C]."""
        return self.perceive(self.prepare(image), outputs)[0]

    @torch.inference_mode()
    def perceive(self, images: torch.Tensor, outputs: Collection[str]) -> list[Perception]:
        """Outputs of each of B prepared images of one size, float32 [B, 3, H, W]."""
        names = ("features", "attention", "embedding")
        computed = zip(names, self._outputs(images), strict=True)
        seen = {name: output.float().cpu().numpy() for name, output in computed if name in outputs}
        perceptions = []
        for i in range(len(images)):
            features, attention, embedding = (seen[name][i] if name in seen else None for name in names)
            perceptions.append(Perception(features, attention, embedding, mask=None))
        return perceptions

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Resize and normalize an image: float32 [1, 3, H, W] on the ViT's device."""
        height, width = (self._rounded(side) for side in self.size or image.shape[:2])
        resized = resize(image, height, width)
        images = torch.from_numpy(resized).permute(2, 0, 1)[None].to(next(self.vit.parameters()).device)
        return normalize(images, self._mean, self._std)

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of center crops for classification, as in the paper's protocols, where the size is square.

        None where it is not: then whole images are classified.
        """
        return self._rounded(self.size[0]) if self.size and self.size[0] == self.size[1] else None

    def _rounded(self, side: int) -> int:
        patch = patch_size(self.vit)
        return max(round(side / patch), 1) * patch


def perceive_all(
    encoder: Encoder, images: Iterable[NDArray[np.uint8]], outputs: Collection[str]
) -> Iterator[Perception]:
    """Run an encoder on RGB images [H, W, 3] uint8; a ViT in torch gets consecutive images of one size in batches."""
    if not isinstance(encoder, TorchEncoder):
        yield from (encoder(image, outputs) for image in images)
        return
    for _, alike in groupby(map(encoder.prepare, images), key=lambda prepared: prepared.shape):
        while batch := list(islice(alike, BATCH)):
            yield from encoder.perceive(torch.cat(batch), outputs)


def read_images(files: Iterable[Path]) -> Iterator[NDArray[np.uint8]]:
    """Read files as RGB images [H, W, 3] uint8; raises UserError for a file that is no image."""
    return (decode(file.read_bytes(), str(file)) for file in files)


def embed_images(encoder: Encoder, files: Sequence[Path]) -> NDArray[np.float32]:
    """Embeddings [N, C] of N whole image files; raises UserError for a file that is no image."""
    seen = perceive_all(encoder, watched(read_images(files), "looking at images", len(files)), ("embedding",))
    return np.stack([one.embedding for one in seen if one.embedding is not None])


def open_encoders(
    names: Sequence[str], size: tuple[int, int] | None = None, device: str = "auto"
) -> dict[str, Encoder]:
    """Open encoders; returns them by name.

    A name is a student file (.onnx), a bundled student, weights that `open_weights` opens, or "random": the previous
    encoder's ViT with random weights. `size` is that of `TorchEncoder`
    (student files have their own); `device` is "auto", "cpu" or "cuda". Raises UserError for a name that is none of
    these or is given twice, and for a file that cannot be used.
    """
    torch_device = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    )
    encoders: dict[str, Encoder] = {}
    previous = ""
    for name in names:
        label = f"{RANDOM} like {previous}" if name == RANDOM else name
        if label in encoders:
            raise UserError(f"{label} is named twice: name it once.")
        if name == RANDOM and not previous:
            raise UserError("random takes the shape of the encoder before it: name that one first.")
        encoders[label] = _open(name, previous, size, torch_device)
        previous = previous if name == RANDOM else name
    return encoders


def _open(name: str, previous: str, size: tuple[int, int] | None, device: torch.device) -> Encoder:
    if name == RANDOM:
        if is_student(previous):
            # Runs in torch, at the student's own size.
            info = read_student(find_student(previous))
            size = (info.height, info.width)
        return TorchEncoder(random_vit(previous).to(device), size)
    if is_student(name):
        return Perceiver.load(name)
    return TorchEncoder(open_weights(name).vit.to(device), size)


def is_student(name: str) -> bool:
    """Whether a name is a student file or a bundled student."""
    return name.endswith(".onnx") or (MODELS / f"{name}.onnx").is_file()


def random_vit(like: str) -> VisionTransformer:
    """Build an untrained ViT of the shape of a student file, or of weights that `open_weights` opens.

    The weights are the same each time. Raises UserError for a student file that does not say how its ViT was built.
    """
    if is_student(like):
        origin = read_student(find_student(like)).weights
    else:
        origin = open_weights(like).origin if find_weights(like) else {"timm": like}
    torch.manual_seed(SEED)
    if vit := random_like(origin):
        return vit
    raise UserError(f"{like} does not say how its ViT was built: name its checkpoint or timm model before `random`.")
