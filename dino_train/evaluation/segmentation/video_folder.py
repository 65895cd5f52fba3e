"""A folder of videos with masks, as DAVIS is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dino_ros.errors import UserError
from dino_ros.images.folders import is_image_name

OFFICIAL = ("JPEGImages/480p", "Annotations/480p")
SIMPLE = ("images", "masks")
"""Folders of images and of masks, with a folder for each sequence in both."""
LISTING = "ImageSets/2017/val.txt"
"""Names of the sequences in the official layout."""
RATE = 24.0
"""Frames per second of DAVIS, whose files are numbered by frame."""


@dataclass(frozen=True)
class VideoSequence:
    """The frames of a video in order."""

    name: str
    files: list[tuple[Path, Path]]
    """Image of each frame, and the PNG of its objects, which may be missing."""

    def stamps(self) -> list[int]:
        """When each frame was taken, in ns: by the numbers that are the files' names, else one after the other."""
        names = [image.stem for image, _ in self.files]
        numbers = [int(name) if name.isdecimal() else index for index, name in enumerate(names)]
        return [round(number / RATE * 1e9) for number in numbers]


def is_video_folder(folder: Path) -> bool:
    """Whether a folder has a layout that `open_video_folder` reads."""
    return any(all((folder / part).is_dir() for part in layout) for layout in (OFFICIAL, SIMPLE))


def has_sequences(folder: Path) -> bool:
    """Whether a video folder holds folders of frames, and not only images."""
    return any(path.is_dir() for layout in (OFFICIAL, SIMPLE) for path in (folder / layout[0]).glob("*"))


def open_video_folder(folder: Path) -> list[VideoSequence]:
    """List the sequences of a folder, without reading any.

    The folder is either DAVIS as published (`JPEGImages/480p/<sequence>/*.jpg`, `Annotations/480p/<sequence>/*.png`,
    and the names of the sequences in `ImageSets/2017/val.txt`), or has `images/<sequence>/` and `masks/<sequence>/`.
    Raises UserError if it is neither, or if a sequence has no images.
    """
    if not is_video_folder(folder):
        raise UserError(
            f"{folder} holds no videos with masks: it needs the folders {OFFICIAL[0]} and {OFFICIAL[1]}, or "
            f"{SIMPLE[0]} and {SIMPLE[1]}, with a folder for each sequence in both."
        )
    official = (folder / OFFICIAL[0]).is_dir()
    images, masks = (folder / part for part in (OFFICIAL if official else SIMPLE))
    if official:
        if not (folder / LISTING).is_file():
            raise UserError(f"{folder / LISTING} does not exist: it lists the sequences to evaluate on.")
        names = (folder / LISTING).read_text().split()
    else:
        names = sorted(path.name for path in images.iterdir() if path.is_dir())
    if not names:
        raise UserError(f"{images} holds no sequence: it needs a folder of frames for each.")
    return [VideoSequence(name, _frames(images / name, masks / name)) for name in names]


def _frames(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    paths = images.iterdir() if images.is_dir() else ()
    files = sorted(path for path in paths if is_image_name(path.name))
    if not files:
        raise UserError(f"{images} holds no images: every sequence needs its frames.")
    return [(file, masks / f"{file.stem}.png") for file in files]
