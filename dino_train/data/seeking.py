"""Frames of compressed video by number: a frame is decoded with the help of those before it, from a keyframe on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dino_ros.images.near_duplicates import thumbnail_of_gray
from dino_ros.images.video_messages import upright

if TYPE_CHECKING:
    from av import VideoFrame

Play = Callable[[int], Iterator[tuple[int, "VideoFrame"]]]
"""Decodes a video from a keyframe on, given by its number, and yields frames with theirs."""
REORDERED = 16
"""Frames by which a frame may come late: the most that H.264 and H.265 hold back."""


class Seeker:
    """Finds frames by number.

    Decoding goes on from where it stands where that is quickest, so frames asked for in order are decoded once. Every
    process decodes for itself.
    """

    _play: Play
    _frames: Iterator[tuple[int, VideoFrame]]
    """What `_play` goes on to decode."""
    _at: int
    """Number of the frame that came last."""

    def __init__(self, keyframes: NDArray[np.int64], start: Callable[[], Play]) -> None:
        """`keyframes` [M] are numbers, ascending, the first is 0; `start` opens the video in this process."""
        self._keyframes = keyframes
        self._start = start
        self._process = 0

    def __getitem__(self, number: int) -> VideoFrame | None:
        """The frame of that number, None where it does not decode."""
        if self._process != os.getpid():  # a decoder does not survive a fork
            self._play, self._process = self._start(), os.getpid()
            self._at, self._frames = -1, iter(())
        nearest = int(np.searchsorted(self._keyframes, number, side="right")) - 1
        if self._keyframes[nearest] - 1 <= self._at < number:
            frame = self._find(number)
            if frame is not None:
                return frame
        for keyframe in self._keyframes[[nearest, max(nearest - 1, 0)]].tolist():  # some take a while to recover
            self._at, self._frames = keyframe - 1, self._play(keyframe)
            frame = self._find(number)
            if frame is not None:
                return frame
        return None

    def _find(self, number: int) -> VideoFrame | None:
        for at, frame in self._frames:
            self._at = at
            if at == number:
                return frame
            if at > number + REORDERED:
                break
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {"_keyframes": self._keyframes, "_start": self._start, "_process": 0}


def thumbnails(frames: Iterator[tuple[int, VideoFrame]], count: int) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the thumbnail of each of `count` frames that are decoded from the first on, None where one is missing."""
    waiting: dict[int, NDArray[np.uint8]] = {}
    due = 0
    for number, frame in frames:
        waiting[number] = thumbnail_of_gray(upright(frame, "gray"))
        while due in waiting or due < number - REORDERED:
            yield waiting.pop(due, None)
            due += 1
    for number in range(due, count):
        yield waiting.pop(number, None)
