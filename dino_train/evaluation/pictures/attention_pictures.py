"""What a ViT attends to in a few fixed frames, drawn for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from timm.models import VisionTransformer

from dino_ros.files import write_whole
from dino_ros.images.overlay import overlay
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import upsample_mask
from dino_ros.masks.parameters import ATTENTION
from dino_train.data.frames import open_frames
from dino_train.evaluation.encoders import TorchEncoder
from dino_train.models.backbones import patch_size

Image = NDArray[np.uint8]
"""RGB [H, W, 3]."""

FRAMES = 6
"""Frames taken from the data."""
HEADS = 6
"""Attention heads drawn one by one, at most."""
LARGEST = 4
"""Long side of an image at most, in global crops: the cost of attention grows with the square of the patches."""
TILE, GAP = (240, 320), 6
"""Height and width of a sheet's large tiles, and the gap between tiles, in pixels."""
BACKGROUND = 24
"""Gray value behind the tiles."""


@dataclass(frozen=True)
class Attended:
    """An image at the size that the ViT saw it in, and where the ViT's CLS token looked."""

    image: Image
    attention: NDArray[np.float32]
    """[heads, h, w]: attention to the patches, after softmax."""

    def drawn(self) -> Image:
        """The image with the mean attention of all heads as heat, and the outline of the paper's mask."""
        mask = attention_mask(self.attention, ATTENTION.attention_mass)
        mean = self.attention.mean(axis=0)
        # Only what is above the average: early in training attention is nearly uniform, and would show no heat.
        above = np.clip(mean - mean.mean(), 0, None)
        return overlay(self.image, upsample_mask(mask, *self.image.shape[:2]), above[None])


def fixed_frames(paths: Sequence[str], topics: Sequence[str] = (), count: int = FRAMES) -> list[Image]:
    """`count` evenly spaced frames of the data, or all where there are fewer; the same each time.

    Raises UserError for data that cannot be read.
    """
    frames = open_frames(paths, topics)
    return [frames[number] for number in evenly_spaced(len(frames), count)]


def attend(vit: VisionTransformer, image: Image) -> Attended:
    """Run the ViT, in evaluation mode and on its device, on the whole image.

    The image keeps its aspect ratio, up to whole patches. Its long side becomes at least the ViT's own size, that of
    its global crops in training, and at most LARGEST times that.
    """
    patch, own = patch_size(vit), int(vit.patch_embed.img_size[0])
    height, width = image.shape[:2]
    scale = min(max(max(height, width), own), LARGEST * own) / max(height, width)
    rows, columns = (max(round(side * scale / patch), 1) for side in (height, width))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, (columns * patch, rows * patch), interpolation=interpolation).astype(np.uint8)
    attention = TorchEncoder(vit)(resized, ("attention",)).attention
    assert attention is not None  # it was asked for
    return Attended(resized, attention)


def attention_sheet(attended: Sequence[Attended]) -> Image:
    """Draw a row for each image: itself, `Attended.drawn`, and the attention of each of the first HEADS heads."""
    return np.concatenate([sheet_row([one.image, one.drawn()], one.attention) for one in attended])


def sheet_row(pictures: Sequence[Image], attention: NDArray[np.float32]) -> Image:
    """Draw a row: pictures as large tiles, then the first HEADS heads of attention [heads, h, w] as small ones."""
    height, width = TILE
    small = ((height - GAP) // 2, (width - GAP) // 2)
    large = [_tile(picture, TILE) for picture in pictures]
    heads = [_tile(_heat(head, pictures[0].shape[:2]), small) for head in attention[:HEADS]]
    heads += [np.full_like(heads[0], BACKGROUND)] * (len(heads) % 2)
    above, below = heads[: len(heads) // 2], heads[len(heads) // 2 :]
    return np.concatenate([*large, *(np.concatenate(pair) for pair in zip(above, below, strict=True))], axis=1)


def _heat(head: NDArray[np.float32], shape: tuple[int, ...]) -> Image:
    """One head's attention [h, w] as colors [*shape, 3], one for each patch, from its lowest to its highest value."""
    above = head - head.min()
    grid = np.round(above * (255 / max(float(above.max()), 1e-12))).astype(np.uint8)
    large = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    colors: Image = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return colors


def _tile(picture: Image, shape: tuple[int, int]) -> Image:
    """The picture, as large as fits, centered on a tile of `shape` with a margin of GAP pixels in all."""
    tile = np.full((shape[0] + GAP, shape[1] + GAP, 3), BACKGROUND, np.uint8)
    fitted = fit(picture, shape)
    height, width = fitted.shape[:2]
    top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
    tile[top : top + height, left : left + width] = fitted
    return tile


def fit(picture: Image, shape: tuple[int, int]) -> Image:
    """Resize a picture, keeping its aspect ratio, to the largest size within a height and width."""
    scale = min(shape[0] / picture.shape[0], shape[1] / picture.shape[1])
    size = [max(round(side * scale), 1) for side in picture.shape[1::-1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, size, interpolation=interpolation).astype(np.uint8, copy=False)


def write_picture(path: Path, rgb: Image) -> None:
    """Write a picture in the format of the file's suffix."""
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_whole(path, encoded.tobytes())
