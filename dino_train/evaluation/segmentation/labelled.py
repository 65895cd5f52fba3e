"""Pictures whose objects are outlined by hand: VOC, DAVIS, a folder of masks, a bag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.images.sources import is_bag, open_source
from dino_train.data.images import decode, picture_files
from dino_train.evaluation.segmentation.video_folder import is_video_folder, open_video_folder

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A picture, RGB [H, W, 3], and its objects, [H, W]: 0 for background, 1..n for each object, VOID."""
VOID = 255
"""Pixels that are not judged: VOC's rims of objects, and what nobody outlined."""


def labelled_pictures(data: Path, masks: str | None = None, topic: str | None = None) -> Iterator[Labelled]:
    """Pictures with their objects; which layout it is is told from `data`.

    A bag, whose `topic` has the pictures and `masks` the masks; pictures anywhere below `data` where `masks` is a
    folder of PNGs of the same relative names; PASCAL VOC (`JPEGImages`, `SegmentationObject` and the names in
    `ImageSets/Segmentation/val.txt`); `images` beside `instances` or `masks`, with or without a folder for each video;
    or DAVIS as `open_video_folder` reads it. Raises UserError for a folder that is none of these, and as
    `read_labelled`.
    """
    if is_bag(data):
        return labelled_bag(data, topic, masks)
    return (read_labelled(picture, mask) for picture, mask in _files(data, masks))


def labelled_bag(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[Labelled]:
    """Pictures of a bag, as `labelled_bag_frames`."""
    return (labelled for _, labelled in labelled_bag_frames(bag, topic, mask_topic))


def labelled_bag_frames(bag: Path, topic: str | None, mask_topic: str | None) -> Iterator[tuple[int, Labelled]]:
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


def read_labelled(picture: Path, mask: Path) -> Labelled:
    """Read a picture and the mask that belongs to it.

    Raises UserError if either is missing or does not decode, if their sizes differ, and as `read_objects`.
    """
    if not picture.is_file():
        raise UserError(f"{picture} does not exist: every mask needs its picture.")
    rgb, objects = decode(picture.read_bytes(), str(picture)), read_objects(mask)
    if rgb.shape[:2] != objects.shape:
        sizes = ["x".join(map(str, shape)) for shape in (objects.shape, rgb.shape[:2])]
        raise UserError(f"{mask} is {sizes[0]}, but its picture is {sizes[1]}: a mask must have its picture's size.")
    return rgb, objects


def read_objects(file: Path) -> NDArray[np.uint8]:
    """Read a mask's object numbers [H, W]: those of a palette PNG, or the greys of any other, see `object_numbers`.

    Raises UserError for a file that is missing, is no picture, or has colours or 16 bits.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist: every picture needs a mask of the same name.")
    try:
        with Image.open(file) as image:
            values, palette = np.asarray(image), image.mode == "P"
    except OSError as error:
        raise UserError(f"{file} does not decode as a picture: repair it.") from error
    if values.ndim == 3 and (values[:, :, :3] == values[:, :, :1]).all():
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{file} is no mask: save the objects' numbers as a grey or palette PNG of 8 bits.")
    return values if palette else object_numbers(values)


def object_numbers(greys: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Object numbers of a grey mask: where it has only 0 and 255, 255 is one object and not VOID."""
    only = np.isin(greys, (0, 255)).all()
    return (greys > 0).astype(np.uint8) if only else greys.astype(np.uint8, copy=False)


def _files(data: Path, masks: str | None) -> list[tuple[Path, Path]]:
    """Every picture of a folder, and its mask."""
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
        f"{data} holds no labelled pictures: give a bag, a folder as VOC, as DAVIS or with images/ beside instances/ "
        "or masks/, or one of pictures and the folder of their masks with --masks."
    )


def _same_names(pictures: Path, masks: Path) -> list[tuple[Path, Path]]:
    files = picture_files(pictures)
    if not files:
        raise UserError(f"{pictures} holds no pictures to evaluate on.")
    return [(file, (masks / file.relative_to(pictures)).with_suffix(".png")) for file in files]


def _voc_names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{file} does not exist: it lists the pictures of VOC to evaluate on.")
    return file.read_text().split()
