"""What an encoder sees, drawn for a person: masks, attention and patch tokens as a sheet of frames, and as a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_ros.images.sampling import evenly_spaced
from dino_ros.images.sources import FOLDER_RATE, FolderSource, Source
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.pictures.attention_pictures import Attended, Image, sheet_row, write_picture
from dino_train.evaluation.pictures.colors import Colors, fit_colors
from dino_train.machine.progress import watched


@dataclass(frozen=True)
class Seen:
    """An image, and what an encoder sees in it."""

    attended: Attended
    features: NDArray[np.float32]
    """[h, w, C]"""

    def row(self, colors: Colors) -> Image:
        """Draw side by side the image, its mask and attention, its tokens as colors, and each attention head."""
        image = self.attended.image
        tokens = cv2.resize(colors(self.features), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        large = [image, self.attended.drawn(), tokens.astype(np.uint8, copy=False)]
        return sheet_row(large, self.attended.attention)


def see(encoder: Encoder, image: Image) -> Seen:
    """Run an encoder on an RGB image [H, W, 3]."""
    seen = encoder(image, ("features", "attention"))
    assert seen.features is not None  # they were asked for
    assert seen.attention is not None
    return Seen(Attended(image, seen.attention), seen.features)


def draw(name: str, encoder: Encoder, source: Source, folder: Path, frames: int) -> Iterator[Path]:
    """Write a sheet of evenly spaced frames, and for a bag or a video also a video of all frames.

    The colors are fitted on the frames of the sheet. Files are named after the encoder, and yielded once written.
    Raises UserError for a source without frames, and where `frames` is below 1.
    """
    if frames < 1:
        raise UserError(f"--frames is {frames}: it must be 1 or more.")
    some = [see(encoder, image) for image in sheet_frames(source, frames)]
    if not some:
        raise UserError(f"{source.name} has no frames to draw: give another --data.")
    colors = fit_colors([one.features for one in some])
    base = folder / re.sub(r"[^\w.-]+", "_", name).strip("_")
    sheet = base.with_name(f"{base.name}.png")
    write_picture(sheet, np.concatenate([one.row(colors) for one in some]))
    yield sheet
    if not isinstance(source, FolderSource):
        video = base.with_name(f"{base.name}.mp4")
        frames_seen = watched(source, f"drawing {video.name}", len(source))
        rows = (see(encoder, frame.rgb()).row(colors) for frame in frames_seen)
        write_video(video, rows, frame_rate(source))
        yield video


def sheet_frames(source: Source, count: int) -> list[Image]:
    """`count` evenly spaced frames, or all where there are fewer."""
    total = len(source) or sum(1 for _ in source)  # some videos do not say how long they are
    chosen = set(evenly_spaced(total, count))
    return [frame.rgb() for number, frame in enumerate(source) if number in chosen]


def frame_rate(source: Source) -> float:
    """Frames per second of a source, from the median interval between frames."""
    stamps = [frame.stamp for frame in source]
    return 1e9 / float(np.median(np.diff(stamps))) if len(stamps) > 1 else FOLDER_RATE


def write_video(path: Path, pictures: Iterator[Image], rate: float) -> None:
    """Write RGB pictures of one size as a video (MPEG-4), padded to an even height and width; `rate` is in Hz.

    Raises UserError where it cannot be written; then nothing is left behind.
    """
    writer = cv2.VideoWriter()
    with replacing(path) as temporary:
        try:
            for picture in pictures:
                height, width = (side + side % 2 for side in picture.shape[:2])
                if not writer.isOpened() and not writer.open(
                    str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height)
                ):
                    raise UserError(f"{path} cannot be written as a video: choose another folder with --out.")
                even = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)))
                writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
