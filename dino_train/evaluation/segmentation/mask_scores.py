"""How good masks are on images and videos with ground truth: overlap, boundary, steadiness, time, objects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.bags import is_bag
from dino_ros.masks.binary import jaccard
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.motion import find_origin, move
from dino_ros.masks.objects import number_objects
from dino_ros.masks.parameters import METHODS, MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.segmentation.boundary import boundary_f
from dino_train.evaluation.segmentation.labeled_images import VOID, labeled_bag_frames, labeled_images, read_labeled
from dino_train.evaluation.segmentation.object_matching import FOUND, match_objects
from dino_train.evaluation.segmentation.video_folder import (
    VideoSequence,
    has_sequences,
    is_video_folder,
    open_video_folder,
)

CONSECUTIVE = 0.1
"""Seconds between two frames, at most, to measure steadiness on them."""


@dataclass(frozen=True)
class LabeledFrame:
    """A frame of a video, or a single image."""

    rgb: NDArray[np.uint8]
    """[H, W, 3]."""
    objects: NDArray[np.uint8]
    """[H, W]: 0 for background, VOID for pixels that are not judged, any other number for an object."""
    stamp: int
    """Nanoseconds."""


@dataclass(frozen=True)
class MaskScores:
    """Means over sequences of the means over their frames; a single image is a sequence of one.

    Those of objects are over all objects of all frames, see `match_objects`. They are NaN where no frame has several
    true objects, as an object cut in two can then not be told from two objects with one number; and of masks that
    `mask_scores` makes without objects.
    """

    iou: float
    """Intersection over union with all objects together, 0 to 1; frames without objects are left out."""
    boundary: float
    """`boundary_f` on the same frames, 0 to 1."""
    steadiness: float
    """Intersection over union of a frame's mask with the previous frame's mask, warped by the motion of the image, 0 to
    1; NaN where no frames are consecutive."""
    milliseconds: float
    """Median time to make a mask, and its objects where they are scored, from an encoder's outputs."""
    object_iou: float
    """Mean over true objects of the IoU with the found object that each is matched with, 0 to 1."""
    object_recall: float
    """Share of the true objects that are matched at an IoU above FOUND."""
    object_precision: float
    """Share of the found objects that are matched so; NaN where none is found."""
    frames: int


def labeled_sequences(
    data: Path, masks: str | None = None, topic: str | None = None
) -> Iterator[Iterator[LabeledFrame]]:
    """Sequences of frames, read lazily: a bag, each video of a folder, or each labeled image is a sequence.

    Arguments, layouts and errors are those of `labeled_images`.
    """
    if is_bag(data):
        yield (LabeledFrame(*labeled, stamp) for stamp, labeled in labeled_bag_frames(data, topic, masks))
    elif not masks and is_video_folder(data) and has_sequences(data):
        yield from (_video_frames(video) for video in open_video_folder(data))
    else:
        yield from (iter([LabeledFrame(*labeled, 0)]) for labeled in labeled_images(data, masks, topic))


def _video_frames(video: VideoSequence) -> Iterator[LabeledFrame]:
    for files, stamp in zip(video.files, video.stamps(), strict=True):
        yield LabeledFrame(*read_labeled(*files), stamp)


def with_motion(frames: Iterable[LabeledFrame]) -> Iterator[tuple[LabeledFrame, NDArray[np.float32] | None]]:
    """Frames of a sequence, each with its `motion` since the previous one."""
    previous: LabeledFrame | None = None
    for frame in frames:
        yield frame, motion(previous, frame)
        previous = frame


def methods_of(encoder: Encoder) -> list[str]:
    """Mask methods that an encoder allows: all of them, except foreground where it has no foreground head."""
    has_foreground = isinstance(encoder, Perceiver) and bool(encoder.info.foreground_head)
    return [method for method in METHODS if has_foreground or method != "foreground"]


def look(encoder: Encoder, rgb: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Run an encoder on an image; returns its outputs by name, of student files "foreground" as well."""
    if isinstance(encoder, Perceiver):
        return encoder.infer([encoder.prepare_image(rgb).input], outputs)[0]
    seen = encoder(rgb, outputs)
    return {name: getattr(seen, name) for name in outputs}


class Tally:
    """Scores of one kind of masks, collected frame by frame over a sequence."""

    def __init__(self) -> None:
        self.ious: list[float] = []
        self.boundaries: list[float] = []
        self.steadiness: list[float] = []
        self.milliseconds: list[float] = []
        self.object_ious: list[float] = []
        self.objects_found = 0
        self.several = False
        self.frames = 0
        self._previous: NDArray[np.bool_] | None = None

    def add(
        self,
        mask: NDArray[np.bool_],
        frame: LabeledFrame,
        origin: NDArray[np.float32] | None,
        numbers: NDArray[np.uint16] | None = None,
    ) -> None:
        """Score a frame's mask [H, W], and the numbers [H, W] of its objects if they are given.

        `origin` says where the frame's pixels were in the previous one, see `motion`.
        """
        self.frames += 1
        judged = frame.objects != VOID
        truth = (frame.objects > 0) & judged
        if truth.any():
            self.ious.append(jaccard(mask & judged, truth))
            self.boundaries.append(boundary_f(mask & judged, truth))
        if origin is not None and self._previous is not None:
            self.steadiness.append(jaccard(move(self._previous.astype(np.float32), origin) > 0.5, mask))
        self._previous = mask
        if numbers is not None:
            matching = match_objects(numbers, frame.objects)
            self.object_ious.extend(matching.ious.tolist())
            self.objects_found += matching.found
            self.several |= len(matching.ious) > 1


def motion(previous: LabeledFrame | None, frame: LabeledFrame) -> NDArray[np.float32] | None:
    """Where each pixel of a frame was in the previous one; None where the two are not consecutive.

    At full resolution, and more precise than the motion that the node steadies masks with.
    """
    if previous is None or previous.rgb.shape != frame.rgb.shape:
        return None
    if not 0 < frame.stamp - previous.stamp <= CONSECUTIVE * 1e9:
        return None
    gray, gray_previous = (cv2.cvtColor(one.rgb, cv2.COLOR_RGB2GRAY).astype(np.uint8) for one in (frame, previous))
    return find_origin(gray, gray_previous, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def mask_scores(
    encoder: Encoder, sequences: Iterable[Iterable[LabeledFrame]], variants: Sequence[MaskParameters]
) -> list[MaskScores]:
    """Score the masks of each variant, whose method must not be "auto"; the encoder runs once on each frame.

    Objects are scored of variants that need the image: numbering them takes the image, which changes masks without.
    Raises UserError if no frame has an object.
    """
    needed = sorted({name for variant in variants for name in METHODS[variant.method]})
    tallies: list[list[Tally]] = [[] for _ in variants]
    for frames in sequences:
        makers = [MaskMaker() for _ in variants]
        for tally in tallies:
            tally.append(Tally())
        for frame, origin in with_motion(frames):
            seen = look(encoder, frame.rgb, needed)
            for variant, maker, tally in zip(variants, makers, tallies, strict=True):
                started = time.perf_counter()
                objects = variant.needs_image(False)
                made = maker(seen, frame.rgb.shape[:2], frame.rgb if objects else None, frame.stamp, variant, objects)
                tally[-1].milliseconds.append(1e3 * (time.perf_counter() - started))
                tally[-1].add(made.mask > 0, frame, origin, made.objects)
    if not any(one.ious for one in tallies[0]):
        raise UserError("No frame has an object in its ground truth: check that --data and --masks belong together.")
    return [_scores(tally) for tally in tallies]


def truth_scores(sequences: Iterable[Iterable[LabeledFrame]]) -> MaskScores:
    """Scores of the ground truth itself, all objects as one mask, whose connected parts are numbered.

    Its steadiness is below 1, as objects turn and the motion is an estimate; its objects are what can be found of
    objects that touch.
    """
    tallies = []
    for frames in sequences:
        tallies.append(Tally())
        for frame, origin in with_motion(frames):
            mask = (frame.objects > 0) & (frame.objects != VOID)
            numbers, _ = number_objects(mask.astype(np.uint8), 1, None, 1)
            tallies[-1].add(mask, frame, origin, numbers)
    return _scores(tallies)


def _scores(tallies: Sequence[Tally]) -> MaskScores:
    def mean(name: str) -> float:
        means = [float(np.mean(getattr(tally, name))) for tally in tallies if getattr(tally, name)]
        return float(np.mean(means)) if means else float("nan")

    times = [value for tally in tallies for value in tally.milliseconds]
    return MaskScores(
        iou=mean("ious"),
        boundary=mean("boundaries"),
        steadiness=mean("steadiness"),
        milliseconds=float(np.median(times)) if times else float("nan"),
        **_object_scores(tallies),
        frames=sum(tally.frames for tally in tallies),
    )


def _object_scores(tallies: Sequence[Tally]) -> dict[str, float]:
    ious = np.concatenate([tally.object_ious for tally in tallies])
    matched, found = int(np.count_nonzero(ious > FOUND)), sum(tally.objects_found for tally in tallies)
    if not any(tally.several for tally in tallies):
        return dict.fromkeys(("object_iou", "object_recall", "object_precision"), float("nan"))
    return {
        "object_iou": float(ious.mean()),
        "object_recall": matched / len(ious),
        "object_precision": matched / found if found else float("nan"),
    }
