"""Every encoding, against OpenCV's own conversion into it or an image of known colors."""

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from image_messages import Image, message
from numpy.typing import NDArray

from dino_ros.errors import UserError
from dino_ros.images.encodings import SensorBits, resize, to_resized_rgb, to_rgb

HEIGHT, WIDTH = 46, 64


@dataclass
class Compressed:
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: bytes


def scene() -> NDArray[np.uint8]:
    """A smooth image of many colors, RGB."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5).astype(np.float32)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    png = cv2.imencode(".png", scene())[1].tobytes()
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


EXACT = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
    "8UC3": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR),
    "rgba8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA),
    "bgra8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
    "8UC4": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", EXACT)
def test_color_encodings_are_exact(encoding: str, padding: int) -> None:
    rgb = scene()
    np.testing.assert_array_equal(to_rgb(message(EXACT[encoding](rgb), encoding, padding)), rgb)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "order"), [("mono16", "<"), ("mono16", ">"), ("mono8", ""), ("8UC1", "")])
def test_gray_encodings(encoding: str, order: str, padding: int) -> None:
    gray = scene()[:, :, 0]
    pixels = (gray.astype(np.uint16) * 256 + 77).astype(order + "u2") if order else gray
    got = to_rgb(message(pixels, encoding, padding, bigendian=order == ">"))
    np.testing.assert_array_equal(got, np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "luma", "u", "v"),
    [("yuv422", 1, 0, 2), ("uyvy", 1, 0, 2), ("yuyv", 0, 1, 3), ("yuv422_yuy2", 0, 1, 3)],
)
def test_yuv_422(encoding: str, luma: int, u: int, v: int, padding: int) -> None:
    """ITU-R BT.601, limited range, written out; two neighbors share u and v."""
    rng = np.random.default_rng(1)
    y = rng.integers(16, 236, (HEIGHT, WIDTH)).astype(np.float64)
    cb, cr = rng.integers(90, 166, (2, HEIGHT, WIDTH // 2)).astype(np.float64)
    packed = np.zeros((HEIGHT, WIDTH * 2), np.uint8)
    packed[:, luma::2] = y
    packed[:, u::4] = cb
    packed[:, v::4] = cr
    got = to_rgb(message(packed.reshape(HEIGHT, WIDTH, 2), encoding, padding))
    cb, cr = np.repeat(cb, 2, axis=1) - 128, np.repeat(cr, 2, axis=1) - 128
    scaled = 1.164 * (y - 16)
    rgb = np.stack([scaled + 1.596 * cr, scaled - 0.813 * cr - 0.391 * cb, scaled + 2.018 * cb], axis=2)
    np.testing.assert_allclose(got, np.clip(rgb, 0, 255), atol=2)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_16_bit_colors(encoding: str, order: str, padding: int) -> None:
    rgb = scene()
    pixels = (EXACT[f"{encoding[:-2]}8"](rgb).astype(np.uint16) * 256 + 99).astype(order + "u2")
    np.testing.assert_array_equal(to_rgb(message(pixels, encoding, padding, bigendian=order == ">")), rgb)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16"])
def test_sensors_that_leave_upper_bits_empty_are_not_black(encoding: str, bits: int) -> None:
    gray = scene()[:, :, 0]
    got = to_rgb(message(gray.astype("<u2") << (bits - 8), encoding))
    np.testing.assert_array_equal(got, to_rgb(message(gray, encoding.replace("16", "8"))))


def test_a_dark_image_of_a_camera_stays_dark(caplog: pytest.LogCaptureFixture) -> None:
    """Used bits do not jump from image to image, and are said once."""
    gray = scene()[:, :, 0].astype("<u2")
    bright, dark = message(gray << 4, "mono16"), message(gray >> 2, "mono16")
    bits = SensorBits("/camera")
    for image in (bright, dark, bright, dark):
        got = to_rgb(image, least_bits=bits.see(image))
        np.testing.assert_array_equal(got[:, :, 0], gray >> (0 if image is bright else 6))
    assert [record.getMessage() for record in caplog.records] == [
        "/camera: of 16-bit images 12 bits are used; the upper 8 of these are taken"
    ]
    eight = message(scene(), "rgb8")
    assert SensorBits("/camera").see(eight) == 0


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24", "i420"])
def test_planar_yuv(encoding: str, padding: int) -> None:
    """ITU-R BT.601, limited range, written out; but for nv24, 2x2 neighbors share u and v. Rows are padded."""
    rng = np.random.default_rng(1)
    step, block = WIDTH + padding, 1 if encoding == "nv24" else 2
    y = rng.integers(16, 236, (HEIGHT, WIDTH))
    u, v = rng.integers(90, 166, (2, HEIGHT // block, WIDTH // block))

    def padded(plane: NDArray[np.int64], to: int) -> NDArray[np.int64]:
        return np.pad(plane, ((0, 0), (0, to - plane.shape[1])), constant_values=123).reshape(-1)

    if encoding == "i420":
        chroma = [padded(u, step // 2), padded(v, step // 2)]
    else:
        first, second = (v, u) if encoding == "nv21" else (u, v)
        chroma = [padded(np.dstack([first, second]).reshape(len(u), -1), 2 * step // block)]
    data = np.concatenate([padded(y, step), *chroma]).astype(np.uint8)
    got = to_rgb(Image(encoding, HEIGHT, WIDTH, step, data))
    cb, cr = (np.kron(plane, np.ones((block, block))) - 128 for plane in (u, v))
    scaled = 1.164 * (y - 16.0)
    rgb = np.stack([scaled + 1.596 * cr, scaled - 0.813 * cr - 0.391 * cb, scaled + 2.018 * cb], axis=2)
    np.testing.assert_allclose(got, np.clip(rgb, 0, 255), atol=2)


MATRICES = [
    f"{bits}{kind}C{n}"
    for bits, kinds in ((8, "US"), (16, "US"), (32, "SF"), (64, "F"))
    for kind in kinds
    for n in (1, 2, 3, 4)
]
SENSOR_MSGS = [
    *("rgb8", "rgba8", "rgb16", "rgba16", "bgr8", "bgra8", "bgr16", "bgra16", "mono8", "mono16"),
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
    *("uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv21", "nv24"),
    *MATRICES,
]
"""Every encoding of sensor_msgs/image_encodings.hpp."""


@pytest.mark.parametrize("encoding", SENSOR_MSGS)
def test_every_encoding_of_sensor_msgs_is_decoded_or_refused_with_a_reason(encoding: str) -> None:
    image = Image(encoding, 4, 4, 128, np.zeros(128 * 12, np.uint8))
    if encoding in MATRICES and encoding not in ("8UC1", "8UC3", "8UC4"):
        with pytest.raises(UserError, match=f"The encoding '{encoding}' is not an image encoding"):
            to_rgb(image)
    else:
        assert to_rgb(image).shape == (4, 4, 3)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("color", [(200, 60, 20), (10, 180, 90), (30, 60, 240)])
def test_bayer_patterns_by_their_name(pattern: str, bits: int, color: tuple[int, int, int]) -> None:
    """An image of one color, sampled as the encoding's name says, comes back in that color."""
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, letter in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = color["rgb".index(letter)]
    pixels = mosaic if bits == 8 else (mosaic.astype("<u2") << 8)
    got = to_rgb(message(pixels, f"bayer_{pattern}{bits}", padding=2))
    np.testing.assert_allclose(got[2:-2, 2:-2].reshape(-1, 3), np.tile(color, ((HEIGHT - 4) * (WIDTH - 4), 1)), atol=1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_color_and_gray(suffix: str) -> None:
    rgb = scene()
    tolerance = 0 if suffix == ".png" else 40
    color = cv2.imencode(suffix, rgb[:, :, ::-1])[1].tobytes()
    np.testing.assert_allclose(to_rgb(Compressed("bgr8; jpeg compressed bgr8", color)).astype(int), rgb, atol=tolerance)
    gray = cv2.imencode(suffix, rgb[:, :, 0])[1].tobytes()
    decoded = to_rgb(Compressed("mono8; png compressed", gray))
    assert decoded.shape == rgb.shape
    np.testing.assert_allclose(decoded[:, :, 1].astype(int), rgb[:, :, 0], atol=tolerance)


@pytest.mark.parametrize("size", [(20, 30), (46, 64), (90, 100), (30, 100)])
@pytest.mark.parametrize("encoding", [*EXACT, "mono8", "8UC1", "mono16", "uyvy", "png"])
def test_resizing_before_the_colors_gives_the_same_pixels(encoding: str, size: tuple[int, int]) -> None:
    rgb = scene()
    if encoding == "png":
        sent: Image | Compressed = Compressed("png", cv2.imencode(".png", rgb)[1].tobytes())
    elif encoding == "mono16":
        sent = message(rgb[:, :, 0].astype("<u2") * 256, encoding, padding=6)
    elif encoding == "uyvy":
        sent = message(rgb[:, :, :2], encoding, padding=4)
    else:
        convert = EXACT.get(encoding, lambda rgb: rgb[:, :, 0])
        sent = message(convert(rgb), encoding, padding=5)
    small, shape = to_resized_rgb(sent, *size)
    np.testing.assert_array_equal(small, resize(to_rgb(sent), *size))
    assert shape == (HEIGHT, WIDTH)


def area_average(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Every pixel the mean of what it covers of the image."""

    def shares(before: int, after: int) -> NDArray[np.float64]:
        edges, scale = np.arange(before), before / after
        starts = scale * np.arange(after)[:, None]
        return np.clip(np.minimum(edges + 1, starts + scale) - np.maximum(edges, starts), 0, None) / scale

    return np.einsum("ir,js,rsc->ijc", shares(HEIGHT, height), shares(WIDTH, width), image.astype(np.float64))


@pytest.mark.parametrize("size", [(23, 32), (40, 60), (20, 30), (20, 60), (40, 20), (7, 9)])
def test_a_smaller_image_is_an_average(size: tuple[int, int]) -> None:
    differences = np.abs(resize(scene(), *size) - area_average(scene(), *size))
    assert differences.mean() < 1.5


@pytest.mark.parametrize("width", [9, 14, 21, 32])
def test_detail_too_fine_for_the_smaller_image_becomes_its_mean(width: int) -> None:
    stripes = np.zeros((HEIGHT, WIDTH), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, 23, width) - 127.5).max() < 1


@pytest.mark.parametrize("size", [(46, 64), (90, 100), (30, 100)])
def test_a_larger_image_is_interpolated(size: tuple[int, int]) -> None:
    np.testing.assert_array_equal(resize(scene(), *size), cv2.resize(scene(), size[::-1]))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (Image("16UC1", 4, 4, 8, np.zeros(32, np.uint8)), "'16UC1'.*mono8, "),
        (Image("nv12", 4, 4, 4, np.zeros(16, np.uint8)), "nv12, .* needs 24 bytes, it has 16"),
        (Image("nv21", 5, 4, 4, np.zeros(99, np.uint8)), "odd size 4x5"),
        (
            Image("rgb8", 4, 4, 11, np.zeros(44, np.uint8)),
            "needs a step of at least 12 bytes, its step is 11",
        ),
        (Image("rgb8", 4, 4, 12, np.zeros(47, np.uint8)), "needs 48 bytes, it has 47"),
        (Image("rgb8", 0, 4, 12, np.zeros(0, np.uint8)), "4x0 pixels is empty"),
        (Image("uyvy", 4, 5, 10, np.zeros(40, np.uint8)), "odd width 5"),
        (Compressed("jpeg", b""), "'jpeg' and 0 bytes does not decode"),
        (Compressed("jpeg", b"\xff\xd8\xff rubbish"), "does not decode"),
        (Compressed("png", png_of_size(100_000, 100_000)), "100000x100000 pixels is refused"),
        (Compressed("16UC1; compressedDepth png", b"1234"), "holds depth"),
    ],
)
def test_a_bad_message_is_named(bad: Image | Compressed, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        to_rgb(bad)
    with pytest.raises(UserError, match=sentence):
        to_resized_rgb(bad, 2, 2)


def test_same_pixels_as_cv_bridge() -> None:
    cv_bridge = pytest.importorskip("cv_bridge")
    sensor_msgs = pytest.importorskip("sensor_msgs.msg")
    for encoding, convert in EXACT.items():
        # cv_bridge shears rows whose step is no multiple of the pixel's size: 12 is one of every size.
        ours = message(convert(scene()), encoding, padding=12)
        fields = {"encoding": encoding, "height": ours.height, "width": ours.width, "step": ours.step}
        real = sensor_msgs.Image(**fields, data=ours.data.tobytes())
        if encoding == "8UC3":  # which cv_bridge converts to nothing, and hands on as OpenCV's own order
            theirs = cv2.cvtColor(cv_bridge.CvBridge().imgmsg_to_cv2(real), cv2.COLOR_BGR2RGB)
        else:
            theirs = cv_bridge.CvBridge().imgmsg_to_cv2(real, "rgb8")
        np.testing.assert_array_equal(to_rgb(real), theirs, err_msg=encoding)
