"""What an encoder sees, drawn: masks over the frames, patch tokens as colors, and attention per head."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.sources import FOLDER_RATE, FolderSource, Source
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.pictures.attention_pictures import Attended, Image, sheet_row, write_picture
from dino_train.evaluation.probing.pca import Pca, fit_pca

SHARE = 0.01
"""Of the tokens that may lie beyond either end of a color: a few odd ones would make all others alike."""


@dataclass(frozen=True)
class Colors:
    """Patch tokens as red, green and blue: their first three principal components, as in DINOv2's figure 1.

    Fitted once, so that a color means the same in every picture.
    """

    pca: Pca
    low: NDArray[np.float64]
    """[3]: where a component is dark."""
    high: NDArray[np.float64]
    """[3]: where it is bright."""

    def __call__(self, features: NDArray[np.float32]) -> Image:
        """Color the tokens [h, w, C]: RGB [h, w, 3] uint8."""
        shares = (self.pca.project(features) - self.low) / np.maximum(self.high - self.low, 1e-12)
        rgb = np.zeros((*features.shape[:2], 3), np.uint8)  # black where tokens vary in fewer than three directions
        rgb[:, :, : shares.shape[2]] = np.round(255 * shares.clip(0, 1))
        return rgb


def fit_colors(features: Sequence[NDArray[np.float32]]) -> Colors:
    """Fit the colors on the tokens of all pictures together, [h, w, C] each."""
    tokens = np.concatenate([one.reshape(-1, one.shape[-1]) for one in features])
    pca = fit_pca(tokens, 3)
    low, high = np.quantile(pca.project(tokens), (SHARE, 1 - SHARE), axis=0)
    return Colors(pca, low, high)


@dataclass(frozen=True)
class Seen:
    """A picture, and what an encoder sees in it."""

    attended: Attended
    features: NDArray[np.float32]
    """[h, w, C]"""

    def row(self, colors: Colors) -> Image:
        """The picture, its mask and attention, its tokens as colors, and its heads, side by side."""
        picture = self.attended.image
        tokens = cv2.resize(colors(self.features), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        large = [picture, self.attended.drawn(), tokens.astype(np.uint8, copy=False)]
        return sheet_row(large, self.attended.attention)


def see(encoder: Encoder, picture: Image) -> Seen:
    """Run an encoder over an RGB picture [H, W, 3]."""
    seen = encoder(picture, ("features", "attention"))
    assert seen.features is not None  # they were asked for
    assert seen.attention is not None
    return Seen(Attended(picture, seen.attention), seen.features)


def draw(name: str, encoder: Encoder, source: Source, folder: Path, frames: int) -> Iterator[Path]:
    """Write an encoder's sheet of some frames at even distances, and of a bag or a video a video of all.

    The colors are fitted on the frames of the sheet. Files are called after the encoder's name, and yielded as they
    are done. Raises UserError for a source without frames, or fewer frames than one.
    """
    if frames < 1:
        raise UserError(f"--frames is {frames}: it must be 1 or more.")
    some = [see(encoder, picture) for picture in spread(source, frames)]
    if not some:
        raise UserError(f"{source.name} has no frames to draw.")
    colors = fit_colors([one.features for one in some])
    base = folder / re.sub(r"[^\w.-]+", "_", name).strip("_")
    sheet = base.with_name(f"{base.name}.png")
    write_picture(sheet, np.concatenate([one.row(colors) for one in some]))
    yield sheet
    if not isinstance(source, FolderSource):
        video = base.with_name(f"{base.name}.mp4")
        rows = (see(encoder, frame.rgb()).row(colors) for frame in source)
        write_video(video, rows, rate(source))
        yield video


def spread(source: Source, count: int) -> list[Image]:
    """`count` frames at even distances, or all where there are fewer."""
    total = len(source) or sum(1 for _ in source)  # some videos do not say how many they are
    count = min(count, total)
    wanted = {(2 * number + 1) * total // (2 * count) for number in range(count)}
    return [frame.rgb() for number, frame in enumerate(source) if number in wanted]


def rate(source: Source) -> float:
    """Frames per second of a source, by the median of their distances."""
    stamps = [frame.stamp for frame in source]
    return 1e9 / float(np.median(np.diff(stamps))) if len(stamps) > 1 else FOLDER_RATE


def write_video(path: Path, pictures: Iterator[Image], rate: float) -> None:
    """Write RGB pictures of one size as a video (MPEG-4), whole or not at all, and even in height and width.

    Raises UserError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
    writer = cv2.VideoWriter()
    try:
        for picture in pictures:
            height, width = (side + side % 2 for side in picture.shape[:2])
            if not writer.isOpened() and not writer.open(
                str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height)
            ):
                raise UserError(f"{path} cannot be written as a video: choose another folder with --out.")
            even = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)))
            writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        writer.release()
        os.replace(temporary, path)
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)
