"""Images in folders and in tar shards."""

from __future__ import annotations

import os
import tarfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS
from dino_ros.images.folders import IMAGE_SUFFIXES, is_image_name
from dino_ros.images.image_header import image_size
from dino_ros.images.sources import readable

Entry = tuple[str, int]
"""Name of an image within its source, and its size in bytes."""


class Names(Sequence[str]):
    """Strings packed into one block of bytes.

    A million Python strings would end up copied in every forked worker, since counting references writes to them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = bytearray()
        ends = array("q", [0])
        for name in names:
            encoded += os.fsencode(name)
            ends.append(len(encoded))
        self._encoded = bytes(encoded)
        self._ends = np.array(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return os.fsdecode(self._encoded[self._ends[index] : self._ends[index + 1]])


class FolderFrames:
    """Image files; `files` are paths relative to the folder."""

    def __init__(self, name: str, folder: Path, files: Iterable[str]) -> None:
        self.name = name
        self.folder = folder
        self.files = Names(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        file = self.folder / self.files[index]
        try:
            encoded = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): remove it or check its permissions.") from error
        return decode(encoded, str(file))

    def entries(self) -> list[Entry]:
        """Name and size of every file, -1 for one that is gone."""
        return [(name, _size(self.folder / name)) for name in self.files]

    @property
    def encoding(self) -> str:
        """Suffix of the first image's file, without the dot."""
        return Path(self.files[0]).suffix[1:].lower()


class TarFrames:
    """Images of an uncompressed tar shard, read in place: only names, offsets and sizes are kept in memory.

    Raises UserError for a file that is not a tar archive or holds no images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = readable(path.name)
        names: list[str] = []
        extents = array("q")
        try:
            with tarfile.open(path, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps every member, a kilobyte each
                    if member.isfile() and is_image_name(member.name):
                        names.append(member.name)
                        extents.extend((member.offset_data, member.size))
        except tarfile.TarError as error:
            raise UserError(
                f"{path} is not a complete, uncompressed tar archive ({error}): make it again with `tar cf`."
            ) from error
        if not names:
            raise UserError(f"{path} holds no images: known endings are {' '.join(sorted(IMAGE_SUFFIXES))}.")
        self._names = Names(names)
        self._extents = np.array(extents).reshape(-1, 2)  # offset and size in bytes

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        offset, size = self._extents[index].tolist()
        with self.path.open("rb") as archive:
            archive.seek(offset)
            return decode(archive.read(size), f"{self.path}:{self._names[index]}")

    def entries(self) -> list[Entry]:
        """Name and size of every image."""
        return list(zip(self._names, self._extents[:, 1].tolist(), strict=True))

    @property
    def encoding(self) -> str:
        """Suffix of the first image's file, without the dot."""
        return Path(self._names[0]).suffix[1:].lower()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def decode(encoded: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of an image file to RGB [H, W, 3] uint8.

    Raises UserError, naming `name`, if that fails or if the image has more than MAX_IMAGE_PIXELS.
    """
    size = image_size(encoded)
    if size and size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise UserError(
            f"{name} is of {size[0]}x{size[1]} pixels, more than {MAX_IMAGE_PIXELS}: remove it or make it smaller."
        )
    try:
        rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if encoded else None
    except cv2.error:  # a header that asks for more pixels than OpenCV allows
        rgb = None
    if rgb is None:
        raise UserError(f"{name} does not decode as an image: remove or repair it.")
    return rgb.astype(np.uint8, copy=False)
