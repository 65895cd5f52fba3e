"""From frames to results in three stages: prepare, infer, deliver. Each has its own thread, so that they overlap.

Between two stages only the newest frame of each camera waits: a newer one supersedes it. Frames of several cameras that
wait together go through the student as one batch; nobody waits for a camera that sends nothing.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS, SensorBits, to_resized_rgb, to_rgb
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.perception.latest import LatestItemsWorker
from dino_ros.perception.perceiver import Perceiver, Perception, PreparedImage, Request
from dino_ros.taught.background import Background
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look

IMAGE = "image"
"""What a camera adds to the outputs it wants if it needs the decoded frame as well."""
COLORS = "colors"
"""What a camera adds to the outputs it wants if it needs the perceiver's `feature_colors` as well."""
TAUGHT = "taught"
"""What a camera adds to the outputs it wants if the taught objects are to be found."""
CLOSER = "closer"
"""What a camera adds to the outputs it wants if its `look_closer` is to be called with the frame."""


class Camera(Protocol):
    """Where frames come from and results go to. Its methods are called from the stages' threads and must not raise."""

    image_topic: str
    """What it is called in messages."""

    def wanted(self) -> Collection[str]:
        """What to make of the next frame: names from the Perceiver's OUTPUTS, IMAGE, COLORS, TAUGHT and CLOSER."""

    def look_closer(self, frame: PreparedFrame) -> None:
        """Run the student on parts of a frame, and keep what it sees in `frame.closer`: only the caller's thread may
        run it."""

    def deliver(self, frame: PreparedFrame, perception: Perception) -> None:
        """Take the results of a frame."""

    def superseded(self) -> None:
        """A newer frame of this camera replaced one that was still waiting."""

    def failed(self, sentence: str) -> None:
        """A frame could not be used; `sentence` says why."""


@dataclass(frozen=True, eq=False)
class ArrivedFrame:
    """A message from a camera, not decoded yet."""

    camera: Camera
    message: Any
    """An image message, see `encodings`."""
    stamp: int
    """Of the message's header, nanoseconds."""
    received_at: float
    """When it came in, seconds of time.monotonic()."""


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """An arrived frame, decoded and resized for one student."""

    arrived: ArrivedFrame
    wanted: frozenset[str]
    """What the camera wanted when the frame was decoded; IMAGE, COLORS, TAUGHT and CLOSER may be among it."""
    perceiver: Perceiver
    """The one it was prepared for: another may have taken over since."""
    request: Request
    """What the perceiver is to compute."""
    image: PreparedImage
    closer: dict[Any, Any] = field(default_factory=dict)
    """What `Camera.look_closer` found, by whatever the camera names it."""

    @property
    def camera(self) -> Camera:
        return self.arrived.camera


@dataclass(frozen=True, eq=False)
class InferredFrame:
    """A prepared frame and the student's outputs for it."""

    prepared: PreparedFrame
    result: dict[str, NDArray[np.float32]]
    """As `Perceiver.infer` returns it."""

    @property
    def camera(self) -> Camera:
        return self.prepared.camera


class Pipeline:
    """The three stages."""

    def __init__(
        self,
        perceiver: Perceiver,
        mask: MaskParameters,
        max_pixels: int = MAX_IMAGE_PIXELS,
        looks: Mapping[str, Sequence[Look]] = MappingProxyType({}),
    ) -> None:
        self.use(perceiver, mask, max_pixels, looks)
        # By student, whose tokens are not comparable to another's; none of them keeps it after its last frame.
        self._makers: dict[Camera, tuple[weakref.ref[Perceiver], MaskMaker]] = {}
        self._finders: dict[Camera, tuple[weakref.ref[Perceiver], Finder]] = {}
        self._bits: dict[Camera, SensorBits] = {}
        self._delivering = LatestItemsWorker[Camera, InferredFrame](self._deliver_frames, "deliver")
        self._inferring = LatestItemsWorker[Camera, PreparedFrame](self._infer_frames, "infer")
        self._preparing = LatestItemsWorker[Camera, ArrivedFrame](self._prepare_frames, "prepare")

    def use(
        self,
        perceiver: Perceiver,
        mask: MaskParameters,
        max_pixels: int = MAX_IMAGE_PIXELS,
        looks: Mapping[str, Sequence[Look]] = MappingProxyType({}),
    ) -> None:
        """Switch student, mask parameters and taught objects; frames already prepared finish with the old ones.

        A compressed image of more than `max_pixels` pixels is not decoded. `looks` are those at each object that was
        taught for this student, by its name; pass another mapping to change them. Raises UserError if the parameters do
        not suit the student.
        """
        self._used = (perceiver, mask.resolve(perceiver.info), max_pixels, looks)

    def offer(self, camera: Camera, message: Any, stamp: int) -> None:
        """Hand over a camera's newest frame, an image message taken at `stamp` ns; returns at once."""
        frame = ArrivedFrame(camera, message, stamp, time.monotonic())
        _count_superseded(self._preparing.offer(camera, frame))

    def stop(self) -> None:
        """End the stages once they finish the frames in hand; frames still waiting count as superseded."""
        for stage in (self._preparing, self._inferring, self._delivering):
            for frame in stage.stop():
                _count_superseded(frame)

    def _prepare_frames(self, frames: dict[Camera, ArrivedFrame]) -> None:
        for camera, frame in frames.items():
            wanted = frozenset(camera.wanted())
            if not wanted:
                continue
            perceiver, mask, max_pixels, looks = self._used
            outputs = wanted - {IMAGE, COLORS, TAUGHT, CLOSER}
            request = Request(outputs, mask, looks if TAUGHT in wanted else {})
            try:
                bits = self._bits.setdefault(camera, SensorBits(camera.image_topic)).see(frame.message)
                image = _decode(frame, perceiver, max_pixels, bits, keep_rgb=IMAGE in wanted or request.needs_image)
            except Exception as error:  # a bad message must not end the stage
                camera.failed(_sentence(error))
                continue
            prepared = PreparedFrame(frame, wanted, perceiver, request, image)
            _count_superseded(self._inferring.offer(camera, prepared))

    def _infer_frames(self, frames: dict[Camera, PreparedFrame]) -> None:
        # Just after a swap, frames for the old student and for the new one may wait together.
        for perceiver in {frame.perceiver for frame in frames.values()}:
            batch = [frame for frame in frames.values() if frame.perceiver is perceiver]
            try:
                outputs = frozenset().union(*(frame.request.student_outputs for frame in batch))
                if any(COLORS in frame.wanted for frame in batch):
                    _ = perceiver.feature_colors  # the first time it runs the engine, which only this thread may
                results = perceiver.infer([frame.image.input for frame in batch], sorted(outputs))
                for frame in batch:
                    if CLOSER in frame.wanted:
                        frame.camera.look_closer(frame)
            except Exception as error:
                for frame in batch:
                    frame.camera.failed(_sentence(error))
                continue
            for frame, result in zip(batch, results, strict=True):
                _count_superseded(self._delivering.offer(frame.camera, InferredFrame(frame, result)))

    def _deliver_frames(self, frames: dict[Camera, InferredFrame]) -> None:
        for camera, inferred in frames.items():
            frame = inferred.prepared
            try:
                maker = self._maker(camera, frame.perceiver)
                finder = self._finder(camera, frame)
                perception = frame.perceiver.finish(inferred.result, frame.image, frame.request, maker, finder)
                camera.deliver(frame, perception)
            except Exception as error:
                camera.failed(_sentence(error))

    def _maker(self, camera: Camera, perceiver: Perceiver) -> MaskMaker:
        """What makes the masks of a camera; it does not compare the tokens of two students."""
        student = weakref.ref(perceiver)
        before, maker = self._makers.get(camera, (student, MaskMaker()))
        if before != student:
            maker.forget()
        self._makers[camera] = student, maker
        return maker

    def _finder(self, camera: Camera, frame: PreparedFrame) -> Finder | None:
        """What finds the objects that the frame's request names; what it saw of the background outlives a change."""
        looks = frame.request.looks
        if not looks:
            return None
        student = weakref.ref(frame.perceiver)
        before, finder = self._finders.get(camera, (None, None))
        if finder is None or before != student:
            finder = Finder(looks, Background(frame.perceiver.info.embed_dim))
        elif finder.looks is not looks:
            finder = Finder(looks, finder.background)
        self._finders[camera] = student, finder
        return finder


def _decode(frame: ArrivedFrame, perceiver: Perceiver, max_pixels: int, bits: int, keep_rgb: bool) -> PreparedImage:
    """Decode and resize; the full-size RGB image is made only where it is kept."""
    height, width = perceiver.info.height, perceiver.info.width
    if not keep_rgb:
        resized, size = to_resized_rgb(frame.message, height, width, max_pixels, bits)
        return PreparedImage(resized, size, None, None, frame.stamp)
    return PreparedImage.of(to_rgb(frame.message, max_pixels, bits), height, width, frame.stamp)


def _count_superseded(replaced: ArrivedFrame | PreparedFrame | InferredFrame | None) -> None:
    if replaced is not None:
        replaced.camera.superseded()


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"A frame could not be processed: {type(error).__name__}: {error}"
