"""Objects of a video's first frame, taught to the node's finder by their masks and found in the frames that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import MaskParameters
from dino_ros.taught.background import Background
from dino_ros.taught.finder import Finder
from dino_ros.taught.looks import look_at
from dino_train.evaluation.encoders import Encoder
from dino_train.evaluation.segmentation.labeled_images import VOID

STEPS = MaskParameters()
"""The steps after the finder, as the node takes them by default."""


def find_in_video(
    encoder: Encoder, images: Iterable[tuple[int, NDArray[np.uint8]]], first: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the object numbers [H, W] of each image after the first, each found before the next is read.

    `images` are stamps in ns and RGB [H, W, 3]; `first` [H, W] are the object numbers of the first: 0 for background,
    VOID for pixels of nothing known. Where two objects overlap, the one with the higher score has the pixel.
    """
    numbers = {str(number): number for number in np.unique(first) if number not in (0, VOID)}
    images = iter(images)
    stamp, image = next(images)
    features = patch_tokens(encoder, image)
    looks = {name: [look_at(features, image, (first == number).astype(np.uint8))] for name, number in numbers.items()}
    finder, maker = Finder(looks, Background(features.shape[-1])), MaskMaker()
    view = maker.see(first.shape, image, stamp, STEPS)
    maker.make_named({name: found.soft for name, found in finder(features).items()}, view, STEPS)
    for stamp, image in images:
        found = finder(patch_tokens(encoder, image))
        view = maker.see(first.shape, image, stamp, STEPS)
        masks = maker.make_named({name: one.soft for name, one in found.items()}, view, STEPS)
        objects = np.zeros(first.shape, np.uint8)
        for name in sorted(found, key=lambda name: found[name].score):
            objects[masks[name].mask > 0] = numbers[name]
        yield objects


def patch_tokens(encoder: Encoder, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patch tokens [h, w, C] of an image."""
    features = encoder(image, ("features",)).features
    assert features is not None  # they were asked for
    return features
