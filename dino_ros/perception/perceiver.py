"""The whole runtime without ROS: RGB images in, what the student sees in them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dino_ros.backends import Backend, Report
from dino_ros.backends.choice import choose_backend
from dino_ros.errors import UserError
from dino_ros.images.encodings import resize
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import METHODS, MaskParameters
from dino_ros.masks.track import FINE, shrink
from dino_ros.perception.feature_colors import FeatureColors
from dino_ros.student import StudentInfo, find_student, read_student
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import Look

OUTPUTS = ("features", "attention", "embedding", "mask", "objects")
MASK_OUTPUTS = frozenset({"mask", "objects"})
"""Those that a MaskMaker makes; the others come straight from the student."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """Where a taught object is in an image."""

    mask: NDArray[np.uint8]
    """[H, W] at the image's own resolution: 255 on the object, else 0; 0 everywhere if it is not in view."""
    objects: NDArray[np.uint16]
    """[H, W] at the image's own resolution: the number of each connected part of the mask, from 1; else 0."""
    similarity: NDArray[np.float32]
    """[h, w]: how like the object each patch is, a cosine."""
    score: float
    """How sure it is that the object is in view, 0 to 1."""


@dataclass(frozen=True)
class Perception:
    """What a student sees in one image; None for outputs that were not requested."""

    features: NDArray[np.float32] | None
    """[h, w, C]: the patch tokens of the last block after the final norm."""
    attention: NDArray[np.float32] | None
    """[heads, h, w]: the softmaxed attention of the CLS token to the patches, last block."""
    embedding: NDArray[np.float32] | None
    """[C]: the CLS token after the final norm, a descriptor of the whole image."""
    mask: NDArray[np.uint8] | None
    """[H, W] at the image's own resolution: 255 on objects, else 0."""
    objects: NDArray[np.uint16] | None = None
    """[H, W] at the image's own resolution: 0 on the background, else the object's number, from 1."""
    taught: Mapping[str, Sighting] = field(default_factory=dict)
    """By name, the objects that were looked for."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image resized for a student, with what the masks need from the original."""

    input: NDArray[np.uint8]
    """RGB [h, w, 3] at the student's input size."""
    size: tuple[int, int]
    """Height and width of the original, in pixels."""
    rgb: NDArray[np.uint8] | None
    """The original, RGB [H, W, 3]; may be None where `Request.needs_image` is False."""
    reduced: NDArray[np.uint8] | None
    """The original, halved to at most FINE pixels: what masks are made from. None where `rgb` is."""
    stamp: int = 0
    """When it was taken, in nanoseconds: how a MaskMaker tells consecutive frames of a camera."""

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], height: int, width: int, stamp: int) -> PreparedImage:
        """An RGB image [H, W, 3] resized to the student's input size, from the reduced one where that is larger."""
        reduced = shrink(rgb, FINE)
        large = reduced if reduced.shape[0] >= height and reduced.shape[1] >= width else rgb
        resized = resize(large, height, width, halved=large is not rgb)
        return cls(resized, (rgb.shape[0], rgb.shape[1]), rgb, reduced, stamp)


@dataclass(frozen=True)
class Request:
    """What to compute from an image; made by `Perceiver.request`."""

    outputs: frozenset[str]
    """Names from OUTPUTS."""
    mask: MaskParameters
    """Resolved for the student."""
    looks: Mapping[str, Sequence[Look]] = field(default_factory=dict)
    """Looks at the taught objects that are looked for, by name."""

    @property
    def student_outputs(self) -> frozenset[str]:
        """The student's outputs that the requested ones are made from."""
        masks = METHODS[self.mask.method] if self.outputs & MASK_OUTPUTS else ()
        recognizes = bool(self.looks) or ("objects" in self.outputs and self.mask.remember > 0)
        return (self.outputs - MASK_OUTPUTS).union(masks, {"features"} if recognizes else ())

    @property
    def needs_image(self) -> bool:
        """Whether the masks need the original image."""
        return bool(self.looks) or (
            bool(self.outputs & MASK_OUTPUTS) and self.mask.needs_image("objects" in self.outputs)
        )


class Perceiver:
    """A student, ready to look at images.

    Example: `Perceiver.load("student.onnx")(rgb).mask`. A call does everything; the node runs the steps,
    `prepare_image`, `infer` and `finish`, in threads of their own, with one MaskMaker per camera.
    """

    def __init__(
        self,
        info: StudentInfo,
        backend: Backend,
        path: Path = Path(),
        chosen: str = "",
        passed_over: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.info = info
        self.backend = backend
        self.path = path
        """Of the student file."""
        self.chosen = chosen or backend.description
        """One line: which engine runs the student."""
        self.passed_over = passed_over
        """Each faster engine that did not work, by name, and the sentence that says why."""

    @classmethod
    def load(
        cls,
        path: str | Path = "",
        backend: str = "auto",
        largest_batch: int = 1,
        report: Report = lambda sentence: None,
    ) -> Perceiver:
        """Load a student file, or a bundled student by name (empty: the default one).

        `backend` is a name from BACKENDS, or "auto" for the fastest that works on this machine; `largest_batch` is the
        most images that one batch may hold; `report` receives a sentence about each slow step. Raises UserError if
        there is no such student or backend, or if it cannot be loaded.
        """
        student = find_student(str(path))
        info = read_student(student)
        choice = choose_backend(student, backend, largest_batch, report)
        return cls(info, choice.backend, student, str(choice), choice.passed_over)

    @cached_property
    def feature_colors(self) -> FeatureColors:
        """The student's colors of features. The first access runs the engine: make it where `infer` is called."""
        return FeatureColors.of(self.backend, self.info)

    def warm_up(self, largest_batch: int = 1, mask: MaskParameters = MaskParameters()) -> None:  # noqa: B008 - frozen
        """Run every batch size up to `largest_batch` once: an engine's first run is slower than the rest.

        It is run for the outputs that such a mask needs.
        """
        blank = np.zeros((self.info.height, self.info.width, 3), dtype=np.uint8)
        outputs = sorted(self.request(["mask"], mask).student_outputs)
        for size in range(1, largest_batch + 1):
            self.infer([blank] * size, outputs)

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
        """Run on one RGB image [H, W, 3] uint8 of any size, or on several (of any sizes) in one batch.

        Each image is stretched to the student's input size. Images are independent: nothing is carried from one to the
        next. Only `outputs` (names from OUTPUTS) are computed. Returns one Perception per image. Raises UserError for
        an unknown output, for arrays that are not RGB images, and for mask parameters that do not suit the student.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            return self([images], outputs, mask)[0]
        request = self.request(outputs, mask)
        if not len(images):
            return []
        prepared = [self.prepare_image(image) for image in images]
        results = self.infer([image.input for image in prepared], sorted(request.student_outputs))
        return [
            self.finish(result, image, request, MaskMaker()) for result, image in zip(results, prepared, strict=True)
        ]

    def request(
        self,
        outputs: Collection[str],
        mask: MaskParameters = MaskParameters(),  # noqa: B008 - frozen
    ) -> Request:
        """A request for `outputs` (names from OUTPUTS) to this student.

        Raises UserError for an unknown output, and for mask parameters that do not suit the student.
        """
        unknown = set(outputs) - set(OUTPUTS)
        if unknown:
            raise UserError(f"There is no output {', '.join(sorted(unknown))}: choose among {', '.join(OUTPUTS)}.")
        return Request(frozenset(outputs), mask.resolve(self.info))

    def prepare_image(self, rgb: NDArray[np.uint8], stamp: int = 0) -> PreparedImage:
        """Resize an RGB image [H, W, 3] uint8, taken at `stamp` ns, to the student's input size.

        Raises UserError for an array that is not such an image.
        """
        is_array = isinstance(rgb, np.ndarray)
        if not is_array or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
            kind = f"{rgb.dtype} {list(rgb.shape)}" if is_array else type(rgb).__name__
            raise UserError(f"An image must be a uint8 RGB array [H, W, 3], not {kind}.")
        return PreparedImage.of(rgb, self.info.height, self.info.width, stamp)

    def infer(
        self, inputs: Sequence[NDArray[np.uint8]], outputs: Sequence[str]
    ) -> list[dict[str, NDArray[np.float32]]]:
        """Run RGB images [h, w, 3] of the student's input size as one batch.

        Returns for each image the named outputs of the student, without the batch dimension.
        """
        if not outputs:
            return [{} for _ in inputs]
        batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
        results = self.backend(batch, outputs)
        return [{name: values[i] for name, values in results.items()} for i in range(len(inputs))]

    def finish(
        self,
        result: dict[str, NDArray[np.float32]],
        image: PreparedImage,
        request: Request,
        maker: MaskMaker,
        finder: Finder | None = None,
    ) -> Perception:
        """Make the Perception of an image from its `result`, as `infer` returned it.

        `maker` and, for taught objects, `finder` are the camera's; the finder has the request's looks.
        """
        names = ("features", "attention", "embedding")
        features, attention, embedding = (result[name] if name in request.outputs else None for name in names)
        masked, objects = bool(request.outputs & MASK_OUTPUTS), "objects" in request.outputs
        if not masked and finder is None:
            return Perception(features, attention, embedding, None)
        numbered = objects or finder is not None
        view = maker.see(image.size, image.reduced, image.stamp, request.mask, numbered, result.get("features"))
        sightings = {}
        if finder is not None:
            found = finder(result["features"])
            soft = {name: one.soft for name, one in found.items()}
            for name, masks in maker.make_named(soft, view, request.mask, numbered).items():
                assert masks.objects is not None  # they were asked for
                sightings[name] = Sighting(masks.mask, masks.objects, found[name].similarity, found[name].score)
        if not masked:
            return Perception(features, attention, embedding, None, taught=sightings)
        masks = maker.make(result, view, request.mask, objects)
        mask = masks.mask if "mask" in request.outputs else None
        return Perception(features, attention, embedding, mask, masks.objects, sightings)
