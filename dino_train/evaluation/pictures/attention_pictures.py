"""What a ViT attends to in fixed pictures, for a person to look at."""

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
from dino_ros.masks.attention import attention_mask
from dino_ros.masks.binary import upsample_mask
from dino_train.data.frames import open_frames
from dino_train.evaluation.encoders import TorchEncoder
from dino_train.models.backbones import patch_size

Image = NDArray[np.uint8]
"""RGB [H, W, 3]."""

FRAMES = 6
"""Fixed pictures that are taken from the data."""
HEADS = 6
"""Heads that are drawn one by one, at most."""
LARGEST = 4
"""Long side of a picture at most, in global crops: attention over more patches costs their number squared."""
TILE, GAP = (240, 320), 6
"""Height and width of a sheet's large tiles, and what is between them, in pixels."""
GROUND = 24
"""Gray value behind the tiles."""


@dataclass(frozen=True)
class Attended:
    """A picture, as large as the ViT saw it, and where the ViT's CLS token looked."""

    image: Image
    attention: NDArray[np.float32]
    """[heads, h, w]: softmaxed attention to the patches."""

    def drawn(self) -> Image:
        """The picture with the heads' mean as heat and the outline of the mask that keeps 60 % of it."""
        mask = attention_mask(self.attention, keep=0.6)
        mean = self.attention.mean(axis=0)
        # Only what is above the average: early on attention differs little, and its heat could not be seen.
        above = np.clip(mean - mean.mean(), 0, None)
        return overlay(self.image, upsample_mask(mask, *self.image.shape[:2]), above[None])


def fixed_frames(paths: Sequence[str], topics: Sequence[str] = (), count: int = FRAMES) -> list[Image]:
    """`count` pictures (or all, where there are fewer) at even distances through the data, each time the same.

    Raises UserError for data that cannot be read.
    """
    frames = open_frames(paths, topics)
    count = min(count, len(frames))
    return [frames[(2 * number + 1) * len(frames) // (2 * count)] for number in range(count)]


def attend(vit: VisionTransformer, picture: Image) -> Attended:
    """Run the ViT, in evaluation mode and on its device, over the whole picture.

    The picture keeps its aspect ratio, to the patch; its long side becomes at least the ViT's own size, the global crop
    it was trained with, and at most LARGEST times that.
    """
    patch, own = patch_size(vit), int(vit.patch_embed.img_size[0])
    height, width = picture.shape[:2]
    scale = min(max(max(height, width), own), LARGEST * own) / max(height, width)
    rows, columns = (max(round(side * scale / patch), 1) for side in (height, width))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(picture, (columns * patch, rows * patch), interpolation=interpolation).astype(np.uint8)
    attention = TorchEncoder(vit)(resized, ("attention",)).attention
    assert attention is not None  # it was asked for
    return Attended(resized, attention)


def attention_sheet(attended: Sequence[Attended]) -> Image:
    """Draw one row for each picture: itself, `Attended.drawn`, and the attention of each of the first HEADS heads."""
    return np.concatenate([sheet_row([one.image, one.drawn()], one.attention) for one in attended])


def sheet_row(pictures: Sequence[Image], attention: NDArray[np.float32]) -> Image:
    """Draw a row of pictures as large tiles, and attention [heads, h, w] as small ones in two lines, at most HEADS."""
    height, width = TILE
    small = ((height - GAP) // 2, (width - GAP) // 2)
    large = [_tile(picture, TILE) for picture in pictures]
    heads = [_tile(_heat(head, pictures[0].shape[:2]), small) for head in attention[:HEADS]]
    heads += [np.full_like(heads[0], GROUND)] * (len(heads) % 2)
    above, below = heads[: len(heads) // 2], heads[len(heads) // 2 :]
    return np.concatenate([*large, *(np.concatenate(pair) for pair in zip(above, below, strict=True))], axis=1)


def _heat(head: NDArray[np.float32], shape: tuple[int, ...]) -> Image:
    """One head's attention [h, w] as colors [*shape, 3], patch by patch, from its lowest to its highest value."""
    above = head - head.min()
    grid = np.round(above * (255 / max(float(above.max()), 1e-12))).astype(np.uint8)
    large = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    colors: Image = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return colors


def _tile(picture: Image, shape: tuple[int, int]) -> Image:
    """The picture, as large as fits, in the middle of a tile of `shape` with GAP pixels around it."""
    tile = np.full((shape[0] + GAP, shape[1] + GAP, 3), GROUND, np.uint8)
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
    """Write a picture file of the kind that its name ends in, whole or not at all."""
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_whole(path, encoded.tobytes())
