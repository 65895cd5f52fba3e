"""A folder of labeled images, laid out as ImageNet is: `train/<class>/*.jpg` and `val/<class>/*.jpg`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models import VisionTransformer
from torch import Tensor
from torch.nn import functional

from dino_ros.errors import UserError
from dino_ros.images.folders import image_files
from dino_train.data.images import decode
from dino_train.data.multicrop import normalize
from dino_train.machine.progress import watched
from dino_train.models.backbones import mean_and_std

BATCH = 64
"""Images that go through the ViT together."""


@dataclass(frozen=True)
class LabeledFiles:
    """Image files, and the label of each: its class, counted from 0."""

    files: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class ClassFolder:
    """Training and validation images of the same classes."""

    classes: list[str]
    """Names in alphabetical order; a label is an index into them."""
    train: LabeledFiles
    val: LabeledFiles


def open_class_folder(folder: Path) -> ClassFolder:
    """List the images of `folder/train/<class>/` and `folder/val/<class>/`, without reading any.

    Raises UserError if either folder is missing or has no class with images, if there is only one class, or if `val`
    has a class that `train` does not have.
    """
    for part in (folder, folder / "train", folder / "val"):
        if not part.is_dir():
            raise UserError(f"{part} is not a folder: put labeled images into train/<class>/ and val/<class>/.")
    classes = _classes(folder / "train")
    unknown = sorted(set(_classes(folder / "val")) - set(classes))
    if unknown:
        raise UserError(
            f"{folder / 'val'} has {len(unknown)} classes that are not in train, such as {unknown[0]!r}: "
            "add them to train, or remove them from val."
        )
    if len(classes) < 2:
        raise UserError(
            f"{folder / 'train'} has only the class {classes[0]!r}: there must be two or more to tell apart."
        )
    return ClassFolder(classes, _labeled(folder / "train", classes), _labeled(folder / "val", classes))


def _classes(part: Path) -> list[str]:
    """Names of the folders in `part` that hold an image."""
    classes = sorted(folder.name for folder in part.iterdir() if folder.is_dir() and image_files(folder))
    if not classes:
        raise UserError(f"{part} holds no folder with images: it needs one for each class.")
    return classes


def _labeled(part: Path, classes: Sequence[str]) -> LabeledFiles:
    pairs = [(file, label) for label, name in enumerate(classes) for file in image_files(part / name)]
    return LabeledFiles([file for file, _ in pairs], [label for _, label in pairs])


@torch.inference_mode()
def embed_files(vit: VisionTransformer, files: Sequence[Path], size: int) -> Tensor:
    """Embeddings [N, C] float32, on the ViT's device, of center crops of N image files; sets evaluation mode.

    Raises UserError for a file that is no image.
    """
    device = next(vit.parameters()).device
    vit.eval()
    mean, std = mean_and_std(vit)
    embeddings = []
    starts = range(0, len(files), BATCH)
    for start in watched(starts, f"looking at {len(files)} images", len(starts)):
        crops = [center_crop(file, size) for file in files[start : start + BATCH]]
        embeddings.append(vit(normalize(torch.stack(crops).to(device), mean, std)).float())
    return torch.cat(embeddings)


def center_crop(file: Path, size: int) -> Tensor:
    """Read an image and crop its center: uint8 [3, size, size], RGB.

    The short side is first resized to size * 256 / 224, bicubic with antialiasing: the paper's protocol at any size.
    Raises UserError if the file is no image.
    """
    rgb = torch.from_numpy(decode(file.read_bytes(), str(file))).permute(2, 0, 1)
    height, width = rgb.shape[1:]
    scale = round(size * 256 / 224) / min(height, width)
    shape = [max(round(side * scale), size) for side in (height, width)]
    resized = functional.interpolate(rgb[None], shape, mode="bicubic", antialias=True)[0]
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return resized[:, top : top + size, left : left + size]
