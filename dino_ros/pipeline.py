"""From frames to results in three stages: prepare, infer, deliver. Each has a thread of its own, so that they overlap.

Between the stages only the newest frame of each camera waits: one that a newer one overtakes is superseded. The frames
of several cameras that wait together go through the student as one batch; none waits for a camera that sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.encodings import resize, to_resized_rgb, to_rgb
from dino_ros.errors import UserError
from dino_ros.masks import MaskParameters
from dino_ros.newest import NewestItemsWorker
from dino_ros.perceiver import Perceiver, Perception

PICTURE = "picture"
"""What a camera adds to the outputs it wants if it needs the frame in RGB too."""


class Camera(Protocol):
    """Where frames come from and results go to. Its methods are called from the stages' threads and must not raise."""

    def wanted(self) -> Collection[str]:
        """What to make of the next frame: names of the Perceiver's OUTPUTS, and PICTURE."""

    def deliver(self, frame: Frame, seen: Perception) -> None:
        """Take the results of a frame."""

    def superseded(self) -> None:
        """Hear that a newer frame took the place of one of this camera's."""

    def failed(self, sentence: str) -> None:
        """Hear that a frame could not be used."""


@dataclass(eq=False)
class Frame:
    """One picture on its way; each stage adds to it."""

    camera: Camera
    message: Any
    """An image message, see `encodings`."""
    arrived: float
    """When, by time.monotonic()."""
    wanted: frozenset[str] = frozenset()
    perceiver: Perceiver | None = None
    """Which it was prepared for: another one may have been taken up meanwhile."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the picture."""
    rgb: NDArray[np.uint8] | None = field(default=None, repr=False)
    """[H, W, 3], where PICTURE is wanted."""
    prepared: NDArray[np.uint8] | None = field(default=None, repr=False)
    """[h, w, 3]: at the student's size."""
    result: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """The student's outputs."""


class Pipeline:
    """The three stages. `perceiver` and `mask` may be replaced at any time; a frame on its way keeps its perceiver."""

    def __init__(self, perceiver: Perceiver, mask: MaskParameters) -> None:
        self.perceiver = perceiver
        self.mask = mask
        self._delivering = NewestItemsWorker[Camera, Frame](self._deliver, "deliver")
        self._inferring = NewestItemsWorker[Camera, Frame](self._infer, "infer")
        self._preparing = NewestItemsWorker[Camera, Frame](self._prepare, "prepare")

    def offer(self, camera: Camera, message: Any) -> None:
        """Hand over a camera's newest frame; returns at once."""
        _hand_over(Frame(camera, message, time.monotonic()), self._preparing)

    def stop(self) -> None:
        """End the stages after the frames they are busy with; those that wait are superseded."""
        for stage in (self._preparing, self._inferring, self._delivering):
            for frame in stage.stop():
                frame.camera.superseded()

    def _prepare(self, frames: dict[Camera, Frame]) -> None:
        for frame in frames.values():
            frame.wanted = frozenset(frame.camera.wanted())
            if not frame.wanted:
                continue
            frame.perceiver = self.perceiver
            height, width = frame.perceiver.info.height, frame.perceiver.info.width
            try:
                if PICTURE in frame.wanted:
                    frame.rgb = to_rgb(frame.message)
                    frame.size = (frame.rgb.shape[0], frame.rgb.shape[1])
                    frame.prepared = resize(frame.rgb, height, width)
                else:
                    frame.prepared, frame.size = to_resized_rgb(frame.message, height, width)
            except Exception as error:  # a message must never end a stage
                frame.camera.failed(_sentence(error))
                continue
            _hand_over(frame, self._inferring)

    def _infer(self, frames: dict[Camera, Frame]) -> None:
        # Just after a swap, frames for the old and for the new student may wait together.
        for perceiver in {frame.perceiver for frame in frames.values()}:
            batch = [frame for frame in frames.values() if frame.perceiver is perceiver]
            wanted = frozenset().union(*(frame.wanted for frame in batch)) - {PICTURE}
            try:
                assert perceiver is not None  # the stage before has set it
                results = perceiver.infer([frame.prepared for frame in batch if frame.prepared is not None], wanted)
            except Exception as error:
                for frame in batch:
                    frame.camera.failed(_sentence(error))
                continue
            for frame, result in zip(batch, results, strict=True):
                frame.result = result
                _hand_over(frame, self._delivering)

    def _deliver(self, frames: dict[Camera, Frame]) -> None:
        for frame in frames.values():
            try:
                assert frame.perceiver is not None
                seen = frame.perceiver.finish(frame.result, frame.wanted, *frame.size, self.mask)
                frame.camera.deliver(frame, seen)
            except Exception as error:
                frame.camera.failed(_sentence(error))


def _hand_over(frame: Frame, stage: NewestItemsWorker[Camera, Frame]) -> None:
    replaced = stage.offer(frame.camera, frame)
    if replaced is not None:
        replaced.camera.superseded()


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"A frame could not be processed: {type(error).__name__}: {error}"
