"""Objects that were seen a while ago: one that comes back, from behind another or into view, gets its number again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.images.stamps import SECOND
from dino_ros.masks.descriptors import object_descriptors

LIKE = 0.83
"""Similarity that an object must exceed to be one that was seen before."""
COLOR = 0.016
"""What a color that differs by 1 in CIELAB takes off the similarity: students learn to look past colors, which tell
things of one shape apart."""
LOST = 64
"""Most objects out of view that are remembered, those that were seen last."""
FRAMES = 100
"""Frames after which the mean look of an object follows its newest looks."""


class Memory:
    """The looks of the objects of one mask: those in the previous frame, and those that were lost.

    A look is the mean patch token, at unit length, and the mean color of its patches. Two are kept of an object, and
    what comes back may be like either: the mean of all its looks, and the last one, which shows a part of it where it
    passed behind something or out of the image.
    """

    def __init__(self) -> None:
        self.stamp = 0
        """Of the newest frame, in nanoseconds."""
        self.numbers = np.zeros(0, np.int64)
        """[n]: of the objects that are remembered."""
        self.seen = np.zeros(0, np.int64)
        """[n]: stamps of the frames that showed them last."""
        self.frames = np.zeros(0, np.int64)
        """[n]: how many frames showed them."""
        self.looks = np.zeros((2, 0, 0), np.float32)
        """[2, n, C + 3]: the mean look at each object, and the last one."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays by name, for a file. See `recall`."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def recall(cls, arrays: Mapping[str, NDArray[Any]]) -> Memory:
        """The memory whose `arrays` these are."""
        memory = cls()
        vars(memory).update({name: arrays[name] for name in vars(memory)}, stamp=int(arrays["stamp"]))
        return memory

    def move_on(self, stamp: int, seconds: float) -> None:
        """Go on to a frame taken at `stamp` ns: what was last seen more than `seconds` before is forgotten.

        All is, when time runs backwards: the recording is played again, or another one.
        """
        kept = (stamp >= self.stamp) & (stamp - self.seen <= seconds * SECOND)
        self.stamp = stamp
        self._keep(np.flatnonzero(kept))

    def see(self, objects: NDArray[np.uint16], features: NDArray[np.float32], rgb: NDArray[np.uint8]) -> dict[int, int]:
        """Take in the numbers [h, w] of the objects of a frame, with its patch tokens [h', w', C] and image [h, w, 3].

        Returns the numbers to change: for objects that have a new number, the one that they had before they were lost.
        Pairs are made one to one, the most similar first. An object is one that was lost only if they are more similar
        than LIKE, and more than anything else in view is similar to the one that was lost.
        """
        numbers, looks = _look(objects, features, rgb)
        if self.looks.shape[2] != looks.shape[1]:
            self._keep(np.zeros(0, np.intp))
            self.looks = np.zeros((2, 0, looks.shape[1]), np.float32)
        back = self._find(numbers, looks)
        numbers = np.array([back.get(number, number) for number in numbers.tolist()], np.int64)
        rows = self._rows(numbers)
        frames = np.where(rows >= 0, np.append(self.frames, 0)[rows], 0) + 1
        before = np.append(self.looks[0], np.zeros_like(looks[:1]), axis=0)[rows]
        means = before + (looks - before) / np.minimum(frames, FRAMES)[:, None]
        lost = np.delete(np.arange(len(self.numbers)), rows[rows >= 0])
        self._keep(lost[np.argsort(-self.seen[lost], kind="stable")[:LOST]])
        self.numbers = np.append(numbers, self.numbers)
        self.seen = np.append(np.full(len(numbers), self.stamp), self.seen)
        self.frames = np.append(frames, self.frames)
        self.looks = np.append(np.stack([means, looks]).astype(np.float32), self.looks, axis=1)
        return back

    def _find(self, numbers: NDArray[np.int64], looks: NDArray[np.float32]) -> dict[int, int]:
        """For new numbers in view, by their looks, the numbers of lost objects."""
        rows = self._rows(numbers)
        new, lost = rows < 0, np.delete(np.arange(len(self.numbers)), rows[rows >= 0])
        if not new.any() or not len(lost):
            return {}
        similar = np.maximum(*(_similarity(looks, kept[lost]) for kept in self.looks))
        needed = np.maximum(similar[~new].max(axis=0, initial=LIKE), LIKE)
        similar = np.where(similar > needed, similar, -np.inf)[new]
        back: dict[int, int] = {}
        for _ in range(min(similar.shape)):
            best, old = np.unravel_index(similar.argmax(), similar.shape)
            if similar[best, old] == -np.inf:
                break
            back[int(numbers[new][best])] = int(self.numbers[lost][old])
            similar[best] = similar[:, old] = -np.inf
        return back

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of the numbers is in the memory; -1 for those that are not."""
        rows = {number: row for row, number in enumerate(self.numbers.tolist())}
        return np.array([rows.get(number, -1) for number in numbers.tolist()], np.int64)

    def _keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all but these."""
        self.numbers, self.seen, self.frames = self.numbers[rows], self.seen[rows], self.frames[rows]
        self.looks = self.looks[:, rows]


def _look(
    objects: NDArray[np.uint16], features: NDArray[np.float32], rgb: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The numbers [n] in view, rising, and the looks [n, C + 3] at them."""
    numbers = np.flatnonzero(np.bincount(objects.ravel())[1:]) + 1
    of_patches = cv2.resize(rgb, features.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    means = object_descriptors(np.dstack([features, of_patches]), objects)
    tokens, colors = means[:, :-3], means[:, -3:]
    tokens /= np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
    if len(colors):
        colors[:] = cv2.cvtColor(colors[None], cv2.COLOR_RGB2LAB)[0]
    return numbers, means


def _similarity(looks: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """How similar each of the looks [n, C + 3] is to each of the others [m, C + 3], 1 if they are the same: [n, m]."""
    tokens, known = looks[:, :-3], others[:, :-3]
    known = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12)
    apart = np.linalg.norm(looks[:, None, -3:] - others[None, :, -3:], axis=2)
    similarity: NDArray[np.float32] = tokens @ known.T - np.float32(COLOR) * apart
    return similarity
