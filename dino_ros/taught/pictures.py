"""Pictures of what is taught: their files, and what people look at to see what was understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_ros.images.encodings import EncodedImage, check_header, to_rgb
from dino_ros.images.overlay import OUTLINE
from dino_ros.taught.finder import Found
from dino_ros.taught.looks import Look

JPEG_QUALITY = 95
AROUND = 16
"""Pixels around what was shown by which people know where it was."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB [H, W, 3]. Raises UserError, naming it, if it is missing or does not decode."""
    data = _content(path)
    try:
        return to_rgb(EncodedImage(path.suffix[1:], data))
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask file as [H, W], 255 on the object: where it is opaque, if parts of it are transparent, else where it is
    brighter than half its brightest pixel. Raises UserError, naming it, if it is missing or does not decode."""
    data = _content(path)
    try:
        known = check_header(data.tobytes())
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if known else None
    if image is None:
        raise UserError(f"{path} does not decode as an image: save the mask as a PNG.")
    if image.ndim == 3 and image.shape[2] == 4 and image[:, :, 3].min() < image[:, :, 3].max():
        strength = image[:, :, 3]
    else:
        strength = image if image.ndim == 2 else image[:, :, :3].max(axis=2)
    mask: NDArray[np.uint8] = np.multiply(strength > strength.max() / 2, 255, dtype=np.uint8)
    return mask


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, RGB [H, W, 3] or gray [H, W], whole, as the suffix says: JPEG or PNG."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    write_whole(path, cv2.imencode(path.suffix, swapped, settings)[1].tobytes())


def draw_look(look: Look) -> NDArray[np.uint8]:
    """What was shown, outlined, cut out of its picture with a little of what is around it: RGB [H, W, 3]."""
    x, y, width, height = cv2.boundingRect(look.mask)
    margin = AROUND + max(width, height) // 4
    drawn = _outlined(look.picture, look.mask)
    return drawn[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]


def draw_found(look: Look, found: Found) -> NDArray[np.uint8]:
    """What was shown, outlined, and beside it how like the object everything in that picture is, brighter for more,
    with an outline around what is found of it: RGB [H, 2 W, 3]."""
    height, width = look.mask.shape
    low = float(found.similarity.min())
    strength = np.round((found.similarity - low) * (255 / max(1 - low, 1e-6))).clip(0, 255).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.resize(strength, (width, height)), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    of_object = np.multiply(cv2.resize(found.soft, (width, height)) > 0.5, 255, dtype=np.uint8)
    return np.hstack([_outlined(look.picture, look.mask), _outlined(heat, of_object)])


def _outlined(rgb: NDArray[Any], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    drawn = np.array(rgb, np.uint8, order="C")
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, OUTLINE, thickness=max(1, round(drawn.shape[0] / 240)))
    return drawn


def _content(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(f"There is no image {path}: correct the path.")
    return np.fromfile(path, np.uint8)
