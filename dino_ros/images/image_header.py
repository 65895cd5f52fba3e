"""Width and height of a compressed image, from its header: a file of kilobytes can hold an image of gigabytes."""

from __future__ import annotations

import struct

JPEG, PNG, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
JPEG_SCAN = b"\xff\xda"
TIFF = {b"II*\0": "<", b"MM\0*": ">"}
"""First bytes of TIFF, and the byte order that each stands for."""
TIFF_NUMBERS = {3: "H", 4: "I"}
"""TIFF's types of unsigned integers."""
TIFF_WIDTH, TIFF_HEIGHT, TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT = TIFF_SIDES = (256, 257, 322, 323)
"""TIFF's tags."""
FORMATS = "JPEG, PNG, WebP, TIFF or BMP"
"""Those that are understood."""


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of an encoded image, one of FORMATS; None if the header is not one of theirs.

    Of a TIFF in tiles that are larger than the image it is the tile's size, for which the decoder needs memory. Nothing
    is decoded. Follows ITU T.81 (JPEG), RFC 2083 (PNG), RFC 9649 (WebP), TIFF 6.0 and Windows bitmaps.
    """
    try:
        start = data[:16]
        if start.startswith(JPEG):
            return _jpeg_size(data)
        if start.startswith(PNG):
            return struct.unpack_from(">II", data, 16) if start[12:] == b"IHDR" else None
        if start.startswith(b"RIFF") and start[8:15] == b"WEBPVP8":
            return _webp_size(data, start[15:])
        if start[:4] in TIFF:
            return _tiff_size(data, TIFF[start[:4]])
        if start.startswith(BMP):
            return _bmp_size(data)
    except (struct.error, IndexError, ValueError):  # the data ends within the header
        pass
    return None


def jpeg_scans(data: bytes) -> int:
    """How often the decoder has to go over an image: the scans of a progressive JPEG; 1 for other formats.

    Within a scan the marker cannot occur; one in metadata, such as that of a thumbnail, is counted, too.
    """
    return max(data.count(JPEG_SCAN), 1) if data.startswith(JPEG) else 1


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """From the first frame header; whatever stands between segments is skipped, as libjpeg does."""
    at = 2
    while True:
        at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF, but not DHT, JPG, DAC
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker in (0xD9, 0xDA):  # the end, or a scan without a frame
            return None
        if marker not in (0x00, 0x01, *range(0xD0, 0xD9)):  # those have no length
            at += max(struct.unpack_from(">H", data, at)[0], 2)


def _webp_size(data: bytes, kind: bytes) -> tuple[int, int] | None:
    if kind == b" ":  # lossy: 14 bits each, the others are scaling
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"L":  # lossless: 14 bits each, less one
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"X":  # extended: 24 bits each, less one
        low, middle, high = struct.unpack_from("<HHH", data, 24)
        return (low | (middle & 0xFF) << 16) + 1, (middle >> 8 | high << 8) + 1
    return None


def _tiff_size(data: bytes, order: str) -> tuple[int, int] | None:
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, directory)
    sides: dict[int, int] = {}
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", data, entry)
        if tag in TIFF_SIDES:
            if kind not in TIFF_NUMBERS:
                return None
            (side,) = struct.unpack_from(order + TIFF_NUMBERS[kind], data, entry + 8)
            sides.setdefault(tag, side)  # as libtiff does: of two entries the first counts
    if TIFF_WIDTH not in sides or TIFF_HEIGHT not in sides:
        return None
    return max(sides[TIFF_WIDTH], sides.get(TIFF_TILE_WIDTH, 0)), max(
        sides[TIFF_HEIGHT], sides.get(TIFF_TILE_HEIGHT, 0)
    )


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height is stored from the top
