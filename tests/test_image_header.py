"""The size of a compressed image, read from its header."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS, to_resized_rgb, to_rgb
from dino_ros.images.image_header import image_size, jpeg_scans

ENCODED = [
    (".jpg", []),
    (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
    (".png", []),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # lossless
    (".tiff", []),
    (".bmp", []),
]


class Compressed:
    """The fields of sensor_msgs/CompressedImage."""

    def __init__(self, data: bytes) -> None:
        self.format, self.data = "jpeg", data


def scene(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("suffix", "options"), ENCODED)
@pytest.mark.parametrize("size", [(1, 1), (37, 501), (700, 3)])
def test_the_size_is_that_of_the_decoded_image(size: tuple[int, int], suffix: str, options: list[int]) -> None:
    data = cv2.imencode(suffix, scene(*size), options)[1].tobytes()
    assert image_size(data) == size == to_rgb(Compressed(data)).shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_of_files_with_metadata_before_the_image(kind: str, tmp_path: object) -> None:
    """EXIF stands before a JPEG's frame, moves a WebP into its extended format, and adds to a TIFF's directory."""
    exif = Image.Exif()
    exif[0x010E] = "a description\xff\xd8\xff\xc0" * 100
    path = f"{tmp_path}/image"
    Image.fromarray(scene(300, 70)).save(path, kind, exif=exif)
    with open(path, "rb") as file:
        assert image_size(file.read()) == (300, 70)


def test_of_big_endian_tiff() -> None:
    entries = struct.pack(">HHHIHHHHII", 2, 256, 3, 1, 640, 0, 257, 4, 1, 480)
    assert image_size(b"MM\0*" + struct.pack(">I", 8) + entries) == (640, 480)


@pytest.mark.parametrize(("suffix", "options"), ENCODED)
def test_of_a_header_that_is_cut_or_damaged_nothing_is_raised(suffix: str, options: list[int]) -> None:
    data = cv2.imencode(suffix, scene(40, 30), options)[1].tobytes()
    for length in range(min(len(data), 700)):
        assert image_size(data[:length]) in (None, (40, 30))
    random = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, 64, 4):
            damaged[place] = random.integers(256)
        size = image_size(bytes(damaged))
        assert size is None or len(size) == 2


def bomb(width: int, height: int) -> bytes:
    """A PNG of black pixels that is a thousandth of its image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + width * 3)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_image_of_too_many_pixels_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1000 * 999
    small, large = Compressed(bomb(999, 1000)), Compressed(bomb(1000, 1000))
    assert to_rgb(small, limit).shape == (1000, 999, 3)
    assert to_resized_rgb(large, 8, 8)[1] == (1000, 1000)
    decoded: list[int] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decoded.append(1))
    for refused in (lambda: to_rgb(large, limit), lambda: to_resized_rgb(large, 8, 8, limit)):
        with pytest.raises(UserError, match=r"1000x1000 pixels is refused.*999000.*max_image_pixels"):
            refused()
    side = int(MAX_IMAGE_PIXELS**0.5) + 1
    with pytest.raises(UserError, match="max_image_pixels"):
        to_rgb(Compressed(b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", side, side)))
    assert not decoded


def test_a_format_whose_size_is_not_known_is_not_decoded() -> None:
    gray = b"P5 8 8 255\n" + bytes(64)
    assert cv2.imdecode(np.frombuffer(gray, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(UserError, match="must be JPEG, PNG, WebP, TIFF or BMP"):
        to_rgb(Compressed(gray))


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A gray TIFF without compression in one strip, with more entries (tag and value) at the end of its directory."""
    entries = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, 1),
        (278, height),
        (279, width * height),
    ]
    entries = [*entries, (273, 8 + 2 + 12 * (len(entries) + 1 + len(more)) + 4), *more]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + bytes(width * height)


def test_of_two_entries_of_a_tiff_the_first_counts() -> None:
    """As for libtiff: a header of 8x8 pixels could hide 12000x12000."""
    data = tiff(100, 50, (256, 8), (257, 8))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (50, 100)
    assert image_size(data) == (100, 50)


def test_the_tiles_of_a_tiff_count() -> None:
    assert image_size(tiff(16, 16, (322, 8000), (323, 4000))) == (8000, 4000)
    assert image_size(tiff(1600, 1600, (322, 256), (323, 256))) == (1600, 1600)


def test_a_sequential_jpeg_whose_first_scan_is_whole_has_no_other() -> None:
    """libjpeg stops after it, so markers of scans in what follows, or in metadata, cost nothing."""
    first, second = (cv2.imencode(".jpg", scene(64, 48) // n)[1].tobytes() for n in (1, 2))
    more = first[:-2] + 30 * second[second.rindex(b"\xff\xda") : -2] + first[-2:]
    np.testing.assert_array_equal(to_rgb(Compressed(more)), to_rgb(Compressed(first)))
    assert jpeg_scans(more) == 1
    start = more.index(b"\xff\xda") + 4
    assert jpeg_scans(more[:start] + b"\1" + more[start + 1 :]) == 31, "the first has one component of three"


def test_the_scans_of_a_progressive_jpeg_count() -> None:
    """The decoder goes over all pixels in every scan, however few bytes it has."""
    data = cv2.imencode(".jpg", scene(64, 48), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + last * 190 + data[-2:]
    assert to_rgb(Compressed(data), 64 * 48).shape == to_rgb(Compressed(many), 64 * 48 * 11).shape
    with pytest.raises(UserError, match=r"64x48 pixels in 200 scans is refused"):
        to_rgb(Compressed(many), 64 * 48 * 9)
