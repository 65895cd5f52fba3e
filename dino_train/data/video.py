"""Frames of a video file at random."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.sources import FOLDER_RATE, check_video_name, readable
from dino_train.data.cache import Cache
from dino_train.data.selection import thumbnail_of_gray


class VideoFrames:
    """The frames of a video, found by seeking. Raises UserError if it cannot be opened or has no frames."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = readable(path.name)
        self._capture, self._owner = self._open(), os.getpid()
        self.cache = Cache(path, [path])
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or FOLDER_RATE
        self._count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self._count < 1:
            raise UserError(f"{path} has no frames that decode: convert it, for example to H.264 in .mp4.")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if self._owner != os.getpid():  # a decoder does not survive a fork
            self._capture, self._owner = self._open(), os.getpid()
        if int(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) != index:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        decoded, frame = self._capture.read()
        if not decoded:
            raise UserError(f"Frame {index} of {self.path} does not decode: cut the video before it, or convert it.")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    @property
    def times(self) -> NDArray[np.int64]:
        """Times of the frames [N] in ns, from 0."""
        return np.round(np.arange(len(self)) * (1e9 / self._rate)).astype(np.int64)

    @property
    def encoding(self) -> str:
        """The codec's four-letter code."""
        return int(self._open().get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")

    def thumbnails(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield the thumbnail of every frame, None where it does not decode."""
        capture = self._open()
        for _ in range(len(self)):
            decoded, frame = capture.read()
            yield thumbnail_of_gray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)) if decoded else None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_capture": None, "_owner": 0}

    def _open(self) -> cv2.VideoCapture:
        check_video_name(self.path)
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise UserError(f"{self.path} does not open as a video: convert it, for example to H.264 in .mp4.")
        return capture
