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

from dino_ros.errors import UserError
from dino_ros.images.encodings import resize, to_resized_rgb, to_rgb
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.latest import NewestItemsWorker
from dino_ros.perception.perceiver import Perceiver, Perception

IMAGE = "image"
"""What a camera adds to the outputs it wants if it needs the frame in RGB too."""


class Camera(Protocol):
    """Where frames come from and results go to. Its methods are called from the stages' threads and must not raise."""

    def wanted(self) -> Collection[str]:
        """What to make of the next frame: names of the Perceiver's OUTPUTS, and IMAGE."""

    def deliver(self, frame: Frame, seen: Perception) -> None:
        """Take the results of a frame."""

    def superseded(self) -> None:
        """Hear that a newer frame took the place of one of this camera's."""

    def failed(self, sentence: str) -> None:
        """Hear that a frame could not be used."""


@dataclass(eq=False)
class Frame:
    """One image on its way; each stage adds to it."""

    camera: Camera
    message: Any
    """An image message, see `encodings`."""
    stamp: int
    """Of the message's header, nanoseconds."""
    arrived: float
    """When, by time.monotonic()."""
    wanted: frozenset[str] = frozenset()
    perceiver: Perceiver | None = None
    """Which it was prepared for: another one may have been taken up meanwhile."""
    mask: MaskParameters = MaskParameters()  # noqa: RUF009 - frozen
    """Resolved for that perceiver."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the image."""
    rgb: NDArray[np.uint8] | None = field(default=None, repr=False)
    """[H, W, 3], where IMAGE is wanted or the mask needs it."""
    prepared: NDArray[np.uint8] | None = field(default=None, repr=False)
    """[h, w, 3]: at the student's size."""
    result: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """The student's outputs."""


class Pipeline:
    """The three stages."""

    def __init__(self, perceiver: Perceiver, mask: MaskParameters) -> None:
        self.use(perceiver, mask)
        self._makers: dict[Camera, MaskMaker] = {}
        self._delivering = NewestItemsWorker[Camera, Frame](self._deliver, "deliver")
        self._inferring = NewestItemsWorker[Camera, Frame](self._infer, "infer")
        self._preparing = NewestItemsWorker[Camera, Frame](self._prepare, "prepare")

    def use(self, perceiver: Perceiver, mask: MaskParameters) -> None:
        """Go on with these, from the next frame on; those on their way keep what they were prepared for.

        Raises UserError if the parameters do not suit the student.
        """
        self._used = (perceiver, mask.resolve(perceiver.info))

    def offer(self, camera: Camera, message: Any, stamp: int) -> None:
        """Hand over a camera's newest frame, taken at `stamp` ns; returns at once."""
        _hand_over(Frame(camera, message, stamp, time.monotonic()), self._preparing)

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
            frame.perceiver, frame.mask = self._used
            height, width = frame.perceiver.info.height, frame.perceiver.info.width
            masks = frame.wanted & {"mask", "objects"}
            needs_image = IMAGE in frame.wanted or (masks and frame.mask.needs_image("objects" in masks))
            try:
                if needs_image:
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
            try:
                assert perceiver is not None  # the stage before has set it
                needed = {name for frame in batch for name in perceiver.needs(frame.wanted - {IMAGE}, frame.mask)}
                prepared = [frame.prepared for frame in batch if frame.prepared is not None]
                results = perceiver.infer(prepared, sorted(needed))
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
                maker = self._makers.setdefault(frame.camera, MaskMaker())
                seen = frame.perceiver.finish(
                    frame.result, frame.wanted, frame.size, frame.rgb, frame.stamp, frame.mask, maker
                )
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
