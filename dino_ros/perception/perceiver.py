"""Images in, what the student sees out: the whole runtime, without ROS."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Backend, Report
from dino_ros.backends.choice import choose_backend
from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import METHODS, MaskParameters
from dino_ros.student import StudentInfo, find_student, read_student

OUTPUTS = ("features", "attention", "embedding", "mask", "objects")


@dataclass(frozen=True)
class Perception:
    """What a student sees in one image; None where it was not asked for."""

    features: NDArray[np.float32] | None
    """[h, w, C]: the patch tokens of the last block after the final norm."""
    attention: NDArray[np.float32] | None
    """[heads, h, w]: the softmaxed attention of the CLS token to the patches, last block."""
    embedding: NDArray[np.float32] | None
    """[C]: the CLS token after the final norm, a descriptor of the whole image."""
    mask: NDArray[np.uint8] | None
    """[H, W] at the image's own resolution: 255 where objects are, else 0."""
    objects: NDArray[np.uint16] | None = None
    """[H, W] at the image's own resolution: 0 where no object is, else the object's number, from 1."""


class Perceiver:
    """A student, ready to look at images.

    Example: `Perceiver.load("student.onnx")(rgb).mask`. Calling it does all at once; the node calls the three steps,
    `prepare`, `infer` and `finish`, in threads of their own, with a MaskMaker for each camera.
    """

    def __init__(self, info: StudentInfo, backend: Backend, path: Path = Path(), chosen: str = "") -> None:
        self.info = info
        self.backend = backend
        self.path = path
        """Of the student's file."""
        self.chosen = chosen or backend.description
        """Which engine runs it, and why no faster one, in one line."""

    @classmethod
    def load(
        cls,
        path: str | Path = "",
        backend: str = "auto",
        largest_batch: int = 1,
        report: Report = lambda sentence: None,
    ) -> Perceiver:
        """Load a student file, or a bundled student by name (empty: the default one).

        `backend` is a name of BACKENDS, or "auto" for the fastest that works here; `largest_batch` the most images
        that go in at once; `report` hears what takes long. Raises UserError if there is no such student, if it cannot
        be used, or if there is no such backend.
        """
        found = find_student(str(path))
        info = read_student(found)
        choice = choose_backend(found, backend, largest_batch, report)
        return cls(info, choice.backend, found, str(choice))

    def warm_up(self, largest_batch: int = 1) -> None:
        """Make a mask of every batch size once: an engine's first run takes longer than those that follow."""
        blank = np.zeros((self.info.height, self.info.width, 3), dtype=np.uint8)
        for size in range(1, largest_batch + 1):
            self.infer([blank] * size, self.needs(["mask"], MaskParameters().resolve(self.info)))

    @overload
    def __call__(
        self, images: NDArray[np.uint8], outputs: Collection[str] = ..., mask: MaskParameters = ...
    ) -> Perception: ...

    @overload
    def __call__(
        self, images: Sequence[NDArray[np.uint8]], outputs: Collection[str] = ..., mask: MaskParameters = ...
    ) -> list[Perception]: ...

    def __call__(
        self,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        outputs: Collection[str] = OUTPUTS,
        mask: MaskParameters = MaskParameters(),  # noqa: B008 - frozen
    ) -> Perception | list[Perception]:
        """Look at one RGB image [H, W, 3] uint8 of any size, or at several (of any sizes) in one batch.

        Each image is resized to the student's input, its aspect ratio with it, and is looked at for itself: nothing
        is carried from one to the next. Only `outputs` (of OUTPUTS) are computed. Returns a Perception per image.
        Raises UserError for an unknown output, for arrays that are not RGB images, and for mask parameters that do
        not suit the student.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            return self([images], outputs, mask)[0]
        unknown = set(outputs) - set(OUTPUTS)
        if unknown:
            raise UserError(f"There is no output {', '.join(sorted(unknown))}: choose among {', '.join(OUTPUTS)}.")
        if not len(images):
            return []
        mask = mask.resolve(self.info)
        results = self.infer([self.prepare(image) for image in images], self.needs(outputs, mask))
        return [
            self.finish(result, outputs, image.shape[:2], image, 0, mask, MaskMaker())
            for result, image in zip(results, images, strict=True)
        ]

    def needs(self, outputs: Collection[str], mask: MaskParameters) -> list[str]:
        """The student's outputs that `outputs` (of OUTPUTS) are made of; `mask` is resolved for this student."""
        masks = METHODS[mask.method] if {"mask", "objects"} & {*outputs} else ()
        return sorted(({*outputs} - {"mask", "objects"}) | {*masks})

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an RGB image [H, W, 3] uint8 to the student's input [h, w, 3].

        Raises UserError for an array that is no such image.
        """
        is_array = isinstance(image, np.ndarray)
        if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            kind = f"{image.dtype} {list(image.shape)}" if is_array else type(image).__name__
            raise UserError(f"An image must be a uint8 RGB array [H, W, 3], not {kind}.")
        return resize(image, self.info.height, self.info.width)

    def infer(
        self, prepared: Sequence[NDArray[np.uint8]], needed: Sequence[str]
    ) -> list[dict[str, NDArray[np.float32]]]:
        """Run prepared RGB images as one batch; returns per image the student's outputs that are `needed`."""
        if not needed:
            return [{} for _ in prepared]
        batch = prepared[0][None] if len(prepared) == 1 else np.stack(prepared)
        results = self.backend(batch, needed)
        return [{name: values[i] for name, values in results.items()} for i in range(len(prepared))]

    def finish(
        self,
        result: dict[str, NDArray[np.float32]],
        outputs: Collection[str],
        size: tuple[int, ...],
        image: NDArray[np.uint8] | None,
        stamp: int,
        mask: MaskParameters,
        maker: MaskMaker,
    ) -> Perception:
        """Make of one image's result the Perception; the other arguments are those of MaskMaker."""
        names = ("features", "attention", "embedding")
        features, attention, embedding = (result[name] if name in outputs else None for name in names)
        if not {"mask", "objects"} & {*outputs}:
            return Perception(features, attention, embedding, None)
        made = maker(result, (size[0], size[1]), image, stamp, mask, "objects" in outputs)
        mask_or_none = made.mask if "mask" in outputs else None
        return Perception(features, attention, embedding, mask_or_none, made.objects)
