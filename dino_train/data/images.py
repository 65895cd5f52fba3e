"""Pictures in folders and in tar shards."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.sources import IMAGE_SUFFIXES


class FolderFrames:
    """Picture files by number."""

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name = name
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return decode(self.files[index].read_bytes(), str(self.files[index]))


class TarFrames:
    """Pictures of an uncompressed tar shard, read in place: the index holds offsets, never contents.

    Raises UserError for a file that is no tar archive, or holds no picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        try:
            with tarfile.open(path, "r:") as archive:
                self.members = [
                    (member.name, member.offset_data, member.size)
                    for member in archive
                    if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES
                ]
        except tarfile.TarError as error:
            raise UserError(
                f"{path} is not a whole, uncompressed tar archive ({error}): make it again with `tar cf`."
            ) from error
        if not self.members:
            raise UserError(f"{path} holds no pictures.")

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        name, offset, size = self.members[index]
        with self.path.open("rb") as archive:
            archive.seek(offset)
            return decode(archive.read(size), f"{self.path}:{name}")


def decode(encoded: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a picture file's bytes to RGB [H, W, 3]; raises UserError with `name` if that fails."""
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if bgr is None:
        raise UserError(f"{name} does not decode as a picture: remove it or repair it.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
