"""Image messages to RGB, from every encoding, with NumPy and OpenCV and without ROS.

Works on anything that has the fields of sensor_msgs/Image or sensor_msgs/CompressedImage: messages of rclpy, whose data
is an array.array, and of rosbags, whose data is an ndarray.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_ros.errors import UserError, quoted
from dino_ros.images.image_header import FORMATS, image_size, jpeg_scans

log = logging.getLogger(__name__)

MAX_IMAGE_PIXELS = 64_000_000
"""Most pixels that a compressed image may have, unless another limit is given."""
DEPTH = "16UC1"
"""The usual encoding of depth, in which some cameras publish gray levels."""
SCANS = 20
"""Scans of a progressive JPEG beyond which its pixels count more than once; encoders make about ten."""


class ImageLike(Protocol):
    """The fields of sensor_msgs/Image that decoding needs."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageLike(Protocol):
    """The fields of sensor_msgs/CompressedImage that decoding needs."""

    format: str
    data: Any


@dataclass
class EncodedImage:
    """The bytes of an image file, with the fields of sensor_msgs/CompressedImage."""

    format: str
    data: NDArray[np.uint8]


# Encoding -> channels, bytes per channel, OpenCV conversion to RGB (None: it is RGB already).
# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the first row's first two:
# rggb is "BG" in OpenCV.
_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (1, 2, cv2.COLOR_GRAY2RGB),
    "rgb8": (3, 1, None),
    "bgr8": (3, 1, cv2.COLOR_BGR2RGB),
    "8UC3": (3, 1, cv2.COLOR_BGR2RGB),  # OpenCV's own order, as cv_bridge reads it
    "rgba8": (4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, 1, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, 1, cv2.COLOR_BGRA2RGB),
    "rgb16": (3, 2, None),
    "bgr16": (3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": (4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": (4, 2, cv2.COLOR_BGRA2RGB),
    "yuv422": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (1, 2, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (1, 2, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (1, 2, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (1, 2, cv2.COLOR_BayerGB2RGB),
}

# Encodings with a full plane of luma, then the chroma: OpenCV's conversion to RGB, and how many rows of luma the chroma
# is as large as. None: the chroma of each pixel, U and V side by side, which OpenCV does not know.
_PLANAR: dict[str, tuple[int | None, float]] = {
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 0.5),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 0.5),
    "i420": (cv2.COLOR_YUV2RGB_I420, 0.5),
    "nv24": (None, 2),
}

_YUV = np.array([[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]])
_BT601 = np.hstack([_YUV, -_YUV @ [[16], [128], [128]]])
"""Y, U, V and 1 to RGB, of limited range, as OpenCV converts the other encodings."""

SENSOR_BITS = (10, 12, 14, 16)
"""Bits per pixel of the sensors behind 16-bit images."""

_PER_PIXEL = frozenset({"mono8", "8UC1", "rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "8UC4"})
"""8-bit encodings in which each pixel converts to RGB on its own."""


def resize(image: NDArray[np.uint8], height: int, width: int, halved: bool = False) -> NDArray[np.uint8]:
    """Stretch an image [H, W] or [H, W, C] uint8 to another size, averaging where it shrinks.

    A side of at least twice the target is halved, by averaging pairs of pixels, until it is less than that; the rest is
    interpolated. That is seven times as fast as averaging to the target at once, and differs from it about as much as
    torchvision's antialiased resize does (benchmarks/results/runtime.md). An image that was `halved` so before becomes
    what the one becomes that it was made of.
    """
    rows, columns = image.shape[:2]
    while rows >= 2 * height or columns >= 2 * width:
        rows, columns = rows // 2 if rows >= 2 * height else rows, columns // 2 if columns >= 2 * width else columns
        image = _to(image, rows, columns, cv2.INTER_LINEAR)  # at exactly half the size this averages pairs
        halved = True
    shrinks = rows >= height and columns >= width
    return _to(image, height, width, cv2.INTER_AREA if shrinks and not halved else cv2.INTER_LINEAR)


def _to(image: NDArray[np.uint8], height: int, width: int, interpolation: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)


def to_resized_rgb(
    message: ImageLike | CompressedImageLike,
    height: int,
    width: int,
    max_pixels: int = MAX_IMAGE_PIXELS,
    least_bits: int = 0,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`resize(to_rgb(message, max_pixels, least_bits), height, width)`, and the original height and width.

    8-bit colors are reordered after resizing, which gives the same pixels and saves a copy of the frame. Raises
    UserError as `to_rgb` does.
    """
    encoding = getattr(message, "encoding", None)
    if encoding not in _PER_PIXEL:
        rgb = to_rgb(message, max_pixels, least_bits)
        return resize(rgb, height, width), (rgb.shape[0], rgb.shape[1])
    channels, _, conversion = _ENCODINGS[encoding]
    raw = cast(ImageLike, message)
    rows = pixel_rows(raw, raw.width * channels)
    small = resize(rows.reshape(raw.height, raw.width, channels) if channels > 1 else rows, height, width)
    rgb = small if conversion is None else cv2.cvtColor(small, conversion).astype(np.uint8, copy=False)
    return rgb, (raw.height, raw.width)


def to_rgb(
    message: ImageLike | CompressedImageLike, max_pixels: int = MAX_IMAGE_PIXELS, least_bits: int = 0
) -> NDArray[np.uint8]:
    """Decode an image message, raw or compressed, to RGB [H, W, 3] uint8.

    Of 16-bit images the upper 8 of the bits that are used remain, since sensors of 10 or 12 bits leave the others
    empty: of `sensor_bits`, or of `least_bits` where these are more. For `rgb8` the result is a view of the message's
    data. Raises UserError, naming the encoding or format, for messages that cannot be decoded: depth images, unknown
    encodings, data that does not fit the stated size, compressed images of more than `max_pixels` pixels.
    """
    if hasattr(message, "encoding"):
        return _raw_to_rgb(cast(ImageLike, message), least_bits)
    return _compressed_to_rgb(message, max_pixels)


def as_intensity(message: Any) -> Any:
    """A message of rosbags of the encoding 16UC1 as mono16, which some infrared and thermal cameras mean by it; any
    other one as it is."""
    is_depth = getattr(message, "encoding", "") == DEPTH
    return dataclasses.replace(message, encoding="mono16") if is_depth else message


def sensor_bits(message: ImageLike | CompressedImageLike) -> int:
    """The smallest of SENSOR_BITS that holds the brightest pixel of a 16-bit image; 0 for other images.

    A camera has as many as the most of its images need: a dark one tells less. Raises UserError for data that does not
    fit the stated size.
    """
    channels, size, _ = _ENCODINGS.get(getattr(message, "encoding", ""), (0, 0, None))
    return _bits_of(_values(cast(ImageLike, message), channels)) if size == 2 else 0


class SensorBits:
    """Bits per pixel that the 16-bit images of one camera have been seen to use."""

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self.bits = 0

    def see(self, message: ImageLike | CompressedImageLike) -> int:
        """Look at another image; returns the most that any image used. Says so where these are not all 16 bits."""
        try:
            bits = sensor_bits(message)
        except UserError:  # whoever decodes it will say so
            return self.bits
        if bits > self.bits:
            self.bits = bits
            tell_sensor_bits(self._camera, bits)
        return self.bits


def tell_sensor_bits(camera: str, bits: int) -> None:
    """Warn where a camera's 16-bit images use only some of their bits; 0 stands for other images."""
    if 0 < bits < SENSOR_BITS[-1]:
        log.warning("%s: of 16-bit images %d bits are used; the upper 8 of these are taken", camera, bits)


def pixel_rows(message: ImageLike, row_bytes: int, least_rows: int = 1) -> NDArray[np.uint8]:
    """The image's bytes [height, row_bytes], as a view without the padding of the rows.

    `row_bytes` is the number of bytes in a row that hold pixels. Raises UserError if size, step and data do not fit
    together, or if there are fewer than `least_rows`.
    """
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height < least_rows or width < 1:
        raise UserError(f"An image of {width}x{height} pixels is empty: check the camera driver.")
    if step < row_bytes:
        raise UserError(
            f"An image of encoding {message.encoding} and width {width} needs a step of at least {row_bytes} bytes, "
            f"its step is {step}: check the camera driver."
        )
    if data.size < step * height:
        raise UserError(
            f"An image of step {step} and height {height} needs {step * height} bytes, it has {data.size}: it arrived "
            "incomplete, or the camera driver is wrong."
        )
    return data[: step * height].reshape(height, step)[:, :row_bytes]


_DECODE_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)
"""Decodes straight to RGB, which saves a copy; exists since OpenCV 4.11 (Ubuntu 24.04 has 4.6)."""
_DECODE = _DECODE_RGB or cv2.IMREAD_COLOR


def _raw_to_rgb(message: ImageLike, least_bits: int) -> NDArray[np.uint8]:
    if message.encoding in _PLANAR:
        return _planar_to_rgb(message)
    if message.encoding not in _ENCODINGS:
        depth = "; where it is gray and not depth, set the node's intensity_16uc1, or name the topic to train on it"
        raise UserError(
            f"The encoding {quoted(message.encoding)} is not an image encoding that can be used: publish one of "
            f"{', '.join([*_ENCODINGS, *_PLANAR])}{depth if message.encoding == DEPTH else ''}."
        )
    channels, size, conversion = _ENCODINGS[message.encoding]
    if size == 2:
        values = _values(message, channels)
        rows = (values >> (max(_bits_of(values), least_bits) - 8)).astype(np.uint8)
    else:
        rows = pixel_rows(message, message.width * channels)
    pixels = rows.reshape(message.height, message.width, channels) if channels > 1 else rows
    if conversion is None:
        return pixels
    if channels == 2 and message.width % 2:
        raise UserError(
            f"An image of encoding {message.encoding} has the odd width {message.width}: two pixels share their "
            "color; set the camera to an even width."
        )
    return cv2.cvtColor(np.ascontiguousarray(pixels), conversion).astype(np.uint8, copy=False)


def _values(message: ImageLike, channels: int) -> NDArray[np.uint16]:
    """The values of a 16-bit image [H, W * channels]."""
    rows = np.ascontiguousarray(pixel_rows(message, message.width * channels * 2))
    return rows.view(">u2" if message.is_bigendian else "<u2")


def _bits_of(values: NDArray[np.uint16]) -> int:
    used = int(values.max()).bit_length()
    return next(bits for bits in SENSOR_BITS if bits >= used)


def _planar_to_rgb(message: ImageLike) -> NDArray[np.uint8]:
    conversion, chroma = _PLANAR[message.encoding]
    height, width, step = message.height, message.width, message.step
    pixel_rows(message, width)  # checks the luma
    if conversion is not None and (height % 2 or width % 2):
        raise UserError(
            f"An image of encoding {message.encoding} has the odd size {width}x{height}: four pixels share their "
            "color; set the camera to an even width and height."
        )
    data = np.frombuffer(message.data, dtype=np.uint8)
    needed = round(height * (1 + chroma)) * step
    if data.size < needed:
        raise UserError(
            f"An image of encoding {message.encoding}, step {step} and height {height} needs {needed} bytes, it has "
            f"{data.size}: it arrived incomplete, or the camera driver is wrong."
        )
    if message.encoding == "i420" and step % 2:
        raise UserError(
            f"An image of encoding i420 has the odd step {step}: rows of color have half of it, so it must be even; "
            "check the camera driver."
        )
    luma = data[: height * step].reshape(height, step)[:, :width]
    rest = data[height * step : needed]
    if conversion is None:
        pairs = rest.reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
        yuv = np.dstack([luma, pairs])
        return cv2.transform(yuv, _BT601).astype(np.uint8, copy=False)
    half = step // 2 if message.encoding == "i420" else step
    columns = width // 2 if message.encoding == "i420" else width
    planes = rest.reshape(-1, half)[:, :columns].reshape(-1, width)
    return cv2.cvtColor(np.vstack([luma, planes]), conversion).astype(np.uint8, copy=False)


def check_header(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> bool:
    """Whether a compressed image has a header that is understood; nothing is decoded.

    Raises UserError where it says that decoding would take the time of more than `max_pixels` pixels.
    """
    size, scans = image_size(data), jpeg_scans(data)
    if size and size[0] * size[1] * max(scans / SCANS, 1) > max_pixels:
        what = f"{size[0]}x{size[1]} pixels" + (f" in {scans} scans" if scans > SCANS else "")
        raise UserError(
            f"A compressed image of {what} is refused, since it has more than {max_pixels}: check "
            "the camera, or raise max_image_pixels."
        )
    return size is not None


def _compressed_to_rgb(message: CompressedImageLike, max_pixels: int) -> NDArray[np.uint8]:
    data = np.frombuffer(message.data, dtype=np.uint8)
    if "compressedDepth" in message.format:
        raise UserError(
            f"The compressed format {quoted(message.format)} holds depth, not an image: choose a color topic."
        )
    has_header = check_header(data.tobytes(), max_pixels)
    try:
        image = cv2.imdecode(data, _DECODE) if has_header else None
    except cv2.error:  # a side longer than OpenCV allows
        image = None
    if image is None:
        raise UserError(
            f"A compressed image of format {quoted(message.format)} and {data.size} bytes does not decode: it must be "
            f"{FORMATS}, and arrive complete."
        )
    rgb = image if _DECODE == _DECODE_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb.astype(np.uint8, copy=False)
