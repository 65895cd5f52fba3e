"""Images whose objects are outlined by hand: VOC, DAVIS, a folder of masks, a bag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.images.sources import is_bag, open_source
from dino_train.data.images import decode, image_files
from dino_train.evaluation.segmentation.video_folder import is_video_folder, open_video_folder

Labeled = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image, RGB [H, W, 3], and its objects, [H, W]: 0 for background, 1..n for each object, VOID."""
VOID = 255
"""Pixels that are not judged: VOC's rims of objects, and what nobody outlined."""


def labeled_images(data: Path, masks: str | None = None, topic: str | None = None) -> Iterator[Labeled]:
    """Images with their objects; which layout it is is told from `data`.

    A bag, whose `topic` has the images and `masks` the masks; images anywhere below `data` where `masks` is a
    folder of PNGs of the same relative names; PASCAL VOC (`JPEGImages`, `SegmentationObject` and the names in
    `ImageSets/Segmentation/val.txt`); `images` beside `instances` or `masks`, with or without a folder for each video;
    or DAVIS as `open_video_folder` reads it. Raises UserError for a folder that is none of these, and as
    `read_labeled`.
    """
    if is_bag(data):
        return labeled_bag(data, topic, masks)
    return (read_labeled(image, mask) for image, mask in _files(data, masks))


def labeled_bag(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[Labeled]:
    """Images of a bag, as `labeled_bag_frames`."""
    return (labeled for _, labeled in labeled_bag_frames(bag, topic, mask_topic))


def labeled_bag_frames(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[tuple[int, Labeled]]:
    """Frames of a bag's image topic, each with its stamp in ns and the message of the same stamp on the topic of masks.

    Raises UserError where no topic of masks is named.
    """
    if not mask_topic:
        raise UserError(f"{bag} is a bag: name its topic of masks with --masks.")
    masks = {frame.stamp: frame.image for frame in open_source(bag, mask_topic)}
    return (
        (frame.stamp, (frame.rgb(), object_numbers(to_rgb(masks[frame.stamp])[:, :, 0])))
        for frame in open_source(bag, topic)
        if frame.stamp in masks
    )


def read_labeled(image: Path, mask: Path) -> Labeled:
    """Read an image and the mask that belongs to it.

    Raises UserError if either is missing or does not decode, if their sizes differ, and as `read_objects`.
    """
    if not image.is_file():
        raise UserError(f"{image} does not exist: every mask needs its image.")
    rgb, objects = decode(image.read_bytes(), str(image)), read_objects(mask)
    if rgb.shape[:2] != objects.shape:
        sizes = ["x".join(map(str, shape)) for shape in (objects.shape, rgb.shape[:2])]
        raise UserError(f"{mask} is {sizes[0]}, but its image is {sizes[1]}: a mask must have its image's size.")
    return rgb, objects


def read_objects(file: Path) -> NDArray[np.uint8]:
    """Read a mask's object numbers [H, W]: those of a palette PNG, or the grays of any other, see `object_numbers`.

    Raises UserError for a file that is missing, is no image, or has colors or 16 bits.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist: every image needs a mask of the same name.")
    try:
        with Image.open(file) as image:
            values, palette = np.asarray(image), image.mode == "P"
    except OSError as error:
        raise UserError(f"{file} does not decode as an image: repair it.") from error
    if values.ndim == 3 and (values[:, :, :3] == values[:, :, :1]).all():
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{file} is no mask: save the objects' numbers as a gray or palette PNG of 8 bits.")
    return values if palette else object_numbers(values)


def object_numbers(grays: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Object numbers of a gray mask: where it has only 0 and 255, 255 is one object and not VOID."""
    only = np.isin(grays, (0, 255)).all()
    return (grays > 0).astype(np.uint8) if only else grays.astype(np.uint8, copy=False)


def _files(data: Path, masks: str | None) -> list[tuple[Path, Path]]:
    """Every image of a folder, and its mask."""
    if masks:
        return _same_names(data, Path(masks))
    if (data / "SegmentationObject").is_dir():
        names = _voc_names(data / "ImageSets" / "Segmentation" / "val.txt")
        return [(data / "JPEGImages" / f"{name}.jpg", data / "SegmentationObject" / f"{name}.png") for name in names]
    for name in ("instances", "masks"):
        if (data / "images").is_dir() and (data / name).is_dir():
            return _same_names(data / "images", data / name)
    if is_video_folder(data):
        return [files for sequence in open_video_folder(data) for files in sequence.files]
    raise UserError(
        f"{data} holds no labeled images: give a bag, a folder as VOC, as DAVIS or with images/ beside instances/ "
        "or masks/, or one of images and the folder of their masks with --masks."
    )


def _same_names(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    files = image_files(images)
    if not files:
        raise UserError(f"{images} holds no images to evaluate on.")
    return [(file, (masks / file.relative_to(images)).with_suffix(".png")) for file in files]


def _voc_names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{file} does not exist: it lists the images of VOC to evaluate on.")
    return file.read_text().split()
