"""Width and height of a compressed image, from its header: a file of kilobytes can hold an image of gigabytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

JPEG, PNG, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
JPEG_SCAN = b"\xff\xda"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header: SOF, but not DHT, JPG, DAC."""
JPEG_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
"""Those of images that may stand in one scan."""
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
    """How often the decoder has to go over an image: the scans of a JPEG; 1 for other formats.

    A sequential JPEG whose first scan has all of its components has no other that libjpeg would decode; most cameras'
    are such ones, and are not searched. Within a scan the marker cannot occur; one in metadata, such as that of a
    thumbnail, is counted, too.
    """
    if not data.startswith(JPEG) or _in_one_scan(data):
        return 1
    return max(data.count(JPEG_SCAN), 1)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """From the first frame header."""
    for marker, at in _jpeg_segments(data):
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
    return None


def _in_one_scan(data: bytes) -> bool:
    """Whether the first scan has all components of a sequential JPEG."""
    components = None
    try:
        for marker, at in _jpeg_segments(data):
            if marker in JPEG_SEQUENTIAL:
                components = data[at + 7]
            elif marker in JPEG_FRAMES:
                return False
            elif marker == JPEG_SCAN[1]:
                return data[at + 2] == components
    except (struct.error, IndexError, ValueError):  # the data ends within the header
        pass
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker of each segment up to the first scan, and where its length stands.

    Whatever stands between segments is skipped, as libjpeg does.
    """
    at, marker = 2, 0
    while marker not in (0xD9, JPEG_SCAN[1]):  # the end, a scan
        at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        yield marker, at
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
