"""Images with ground-truth objects: PASCAL VOC, DAVIS, a folder with masks, a bag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.errors import UserError
from dino_ros.images.bags import is_bag
from dino_ros.images.encodings import to_rgb
from dino_ros.images.folders import image_files
from dino_ros.images.sources import open_source
from dino_train.data.images import decode
from dino_train.evaluation.segmentation.video_folder import is_video_folder, open_video_folder

LabeledImage = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image, RGB [H, W, 3], and its object numbers [H, W]: 0 for background, 1 to n for objects, VOID."""
VOID = 255
"""Pixels that are not judged: the borders of VOC's objects, and what nobody outlined."""


def labeled_images(data: Path, masks: str | None = None, topic: str | None = None) -> Iterator[LabeledImage]:
    """Read images with their objects, in whichever of these layouts `data` has.

    * A bag, with images on `topic` and masks on the topic `masks`.
    * Images anywhere below `data`, where `masks` is a folder of PNGs with the same relative names.
    * PASCAL VOC: `JPEGImages`, `SegmentationObject`, and the names in `ImageSets/Segmentation/val.txt`.
    * `images` next to `instances` or `masks`, with or without a folder for each video.
    * DAVIS, as `open_video_folder` reads it.

    Raises UserError for a folder in none of these layouts, and as `read_labeled`.
    """
    if is_bag(data):
        return labeled_bag(data, topic, masks)
    return (read_labeled(image, mask) for image, mask in _files(data, masks))


def count_labeled(data: Path, masks: str | None = None, topic: str | None = None) -> int:
    """How many images `labeled_images` reads; raises UserError as it does."""
    return len(open_source(data, topic)) if is_bag(data) else len(_files(data, masks))


def labeled_bag(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[LabeledImage]:
    """The images of `labeled_bag_frames`."""
    return (labeled for _, labeled in labeled_bag_frames(bag, topic, mask_topic))


def labeled_bag_frames(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[tuple[int, LabeledImage]]:
    """Stamp in ns and labeled image of every frame of a bag that has a mask of the same stamp.

    Raises UserError where no mask topic is given.
    """
    if not mask_topic:
        raise UserError(f"{bag} is a bag: name its mask topic with --masks.")
    masks = {frame.stamp: frame.image for frame in open_source(bag, mask_topic)}
    return (
        (frame.stamp, (frame.rgb(), object_numbers(to_rgb(masks[frame.stamp])[:, :, 0])))
        for frame in open_source(bag, topic)
        if frame.stamp in masks
    )


def read_labeled(image: Path, mask: Path) -> LabeledImage:
    """Read an image and its mask.

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
    """Read a mask's object numbers [H, W]: the indices of a palette PNG, or gray values, see `object_numbers`.

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
        raise UserError(f"{file} is not a mask: save the object numbers as an 8-bit gray or palette PNG.")
    return values if palette else object_numbers(values)


def object_numbers(grays: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Object numbers of a gray mask: where it has only 0 and 255, 255 is one object and not VOID."""
    black_and_white = np.isin(grays, (0, 255)).all()
    return (grays > 0).astype(np.uint8) if black_and_white else grays.astype(np.uint8, copy=False)


def _files(data: Path, masks: str | None) -> list[tuple[Path, Path]]:
    """Every image of a folder with its mask."""
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
        f"{data} holds no labeled images: give a bag, a folder laid out as VOC, as DAVIS or with images/ next to "
        "instances/ or masks/, or a folder of images with the folder of their masks as --masks."
    )


def _same_names(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    files = image_files(images)
    if not files:
        raise UserError(f"{images} holds no images: give a folder that does.")
    return [(file, (masks / file.relative_to(images)).with_suffix(".png")) for file in files]


def _voc_names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{file} does not exist: VOC lists the images to evaluate on there.")
    return file.read_text().split()
