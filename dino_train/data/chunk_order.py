"""A shuffled order in which a compressed chunk of a bag is unpacked once for many of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_ros.images.bag_files import UNPACKED_BYTES
from dino_train.data.bags import BagFrames
from dino_train.data.frames import Frames
from dino_train.data.selection import SelectedFrames

CACHED = 0.5
"""Share of what a process keeps of unpacked chunks that those in use take on average."""
BATCHES = 8
"""Batches over which the frames of a chunk are spread at least: frames of one moment are much alike."""


def compressed_chunks(sources: Sequence[Frames]) -> tuple[NDArray[np.int32], int]:
    """Number of the compressed chunk that holds each image of several sources [N], -1 without one.

    Returns the bytes of all these chunks, unpacked, too.
    """
    bags: dict[Path, int] = {}
    numbers, count, size = [np.empty(0, np.int32)], 0, 0
    for source in sources:
        recording = source.recording if isinstance(source, SelectedFrames) else source
        chunk_of = np.full(len(source), -1, np.int32)
        if isinstance(recording, BagFrames):
            if recording.path not in bags:  # else another topic of the same chunks
                bags[recording.path] = count
                count, size = count + len(recording.chunks), size + int(recording.chunks["unpacked"].sum())
            chunks = recording.chunk_of[source.numbers] if isinstance(source, SelectedFrames) else recording.chunk_of
            compressed = recording.chunks["compression"][chunks] != b""
            chunk_of[compressed] = bags[recording.path] + chunks[compressed]
        numbers.append(chunk_of)
    return np.concatenate(numbers), size


class ChunkOrder:
    """Shuffles images.

    The frames of a compressed chunk come within a stretch of the epoch that begins anywhere, and at its end goes on at
    the beginning. So an image is equally likely to come at any place, and chunks are mixed with one another; only where
    one frame of a chunk is, its others are more likely to be near. The stretch is as short as what a process keeps of
    unpacked chunks makes useful, but at least BATCHES long. All other images are shuffled over the whole epoch.
    """

    def __init__(self, chunk_of: NDArray[np.int32], size: int, batch_size: int) -> None:
        """The first two as `compressed_chunks` returns them."""
        self._chunk_of = chunk_of
        self._chunks = int(chunk_of.max(initial=-1)) + 1
        cached = CACHED * UNPACKED_BYTES / max(size, 1)
        self.stretch = min(max(cached, BATCHES * batch_size / max(len(chunk_of), 1)), 1.0)
        """Share of the epoch."""

    def shuffle(self, images: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """The numbers of images [N] in a random order; a number may occur several times."""
        if not self._chunks:
            return rng.permutation(images)
        chunks = self._chunk_of[images]
        begins = np.where(chunks < 0, 0, rng.random(self._chunks)[chunks])
        places = begins + np.where(chunks < 0, 1, self.stretch) * rng.random(len(images))
        return images[np.argsort(places % 1)]
