"""Random bytes, messages, parameters and recordings: a result or a UserError comes of them, and nothing else.

`DINO_ROS_FUZZ=100000 pytest tests/test_fuzz.py` tries as many random examples of each kind instead of the same few
hundred every time.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("rclpy")

from bags import encoded, raw, serialized, write_topics
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_messages import Image
from rclpy.parameter import Parameter
from test_pipeline import MemoryCamera

from dino_ros.errors import UserError
from dino_ros.images.encodings import EncodedImage, to_resized_rgb, to_rgb
from dino_ros.images.sources import open_source
from dino_ros.masks.parameters import MaskParameters
from dino_ros.messages import to_array
from dino_ros.nodes.parameters import PERCEPTION_PARAMETERS, why_refused
from dino_ros.nodes.wire import header_of, read_image
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pipeline import IMAGE, Pipeline
from dino_ros.student import find_student

CAMPAIGN = int(os.environ.get("DINO_ROS_FUZZ", "0"))
"""Examples of each kind in a random campaign; 0 for the suite's own, which are always the same."""


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=CAMPAIGN or examples,
        derandomize=not CAMPAIGN,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


MAX_PIXELS = 100_000
"""Most pixels of a compressed image here, so that none takes long."""
BYTES_PER_PIXEL = {
    **dict.fromkeys(["mono8", "8UC1", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"], 1),
    **dict.fromkeys(["mono16", "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"], 2),
    **dict.fromkeys(["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "16UC1"], 2),
    **dict.fromkeys(["rgb8", "bgr8", "8UC3"], 3),
    **dict.fromkeys(["rgba8", "bgra8", "8UC4", "32FC1"], 4),
    **dict.fromkeys(["rgb16", "bgr16"], 6),
    **dict.fromkeys(["rgba16", "bgra16"], 8),
    **dict.fromkeys(["nv12", "nv21", "i420", "nv24"], 1),
}
"""Bytes of a row over its pixels; of planar encodings those of the luma."""
ROWS = {"nv12": 1.5, "nv21": 1.5, "i420": 1.5, "nv24": 3}
"""Rows over those of the image, where there is more than one plane."""

sides = st.one_of(st.integers(0, 9), st.integers(1, 80), st.sampled_from([1, 2, 3, 31, 32, 33, 480, 4000, 40000]))
wild = st.one_of(sides, st.integers(0, 2**32 - 1))
seeds = st.integers(0, 2**32 - 1)


def noise(length: int, seed: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(seed).bytes(length), np.uint8)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Most have a size, a step and data that fit together, or nearly so."""
    encoding = draw(st.one_of(st.sampled_from([*BYTES_PER_PIXEL]), st.text(max_size=20)))
    height, width = draw(sides), draw(sides)
    step = BYTES_PER_PIXEL.get(encoding, 1) * width + draw(st.sampled_from([0, 0, 0, 1, 2, 3, 8, -1]))
    length = round(ROWS.get(encoding, 1) * height) * max(step, 0) + draw(st.sampled_from([0, 0, 0, 1, 100, -1]))
    fields = {"height": height, "width": width, "step": max(step, 0)}
    for name in draw(st.sampled_from([(), (), (), ("height",), ("width",), ("step",), (*fields,)])):
        fields[name] = draw(wild)
    data = noise(min(max(length, 0), 400_000), draw(seeds))
    return Image(encoding, **fields, data=data, is_bigendian=draw(st.integers(0, 255)))


def files() -> list[bytes]:
    """A small image in every format, and in the variants of each."""
    color = cv2.GaussianBlur(noise(40 * 30 * 3, 0).reshape(30, 40, 3), (0, 0), 3)
    gray = np.ascontiguousarray(color[..., 0])
    deep = gray.astype(np.uint16) * 257
    alpha = np.dstack([color, gray])
    made = [
        *((".jpg", image, []) for image in (color, gray)),
        (".jpg", color, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
        *((".png", image, []) for image in (color, gray, deep, alpha)),
        *((".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality]) for image in (color, alpha) for quality in (50, 101)),
        *((".tiff", color, [cv2.IMWRITE_TIFF_COMPRESSION, kind]) for kind in (1, 5, 7, 8, 32773)),
        *((".tiff", image, []) for image in (deep, alpha)),
        *((".bmp", image, []) for image in (color, gray)),
        *((ending, color, []) for ending in (".ppm", ".sr")),
    ]
    return [cv2.imencode(ending, image, options)[1].tobytes() for ending, image, options in made]


FILES = files()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes, with a few changed, left out, doubled or cut off at the end; often near the beginning."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 5))):
        if not data:
            break
        place = draw(st.one_of(st.integers(0, min(len(data), 64) - 1), st.integers(0, len(data) - 1)))
        match draw(st.integers(0, 5)):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + draw(st.integers(1, 9))]
            case 2:
                data[place:place] = data[place : place + draw(st.integers(1, 40))]
            case 3:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case _:
                piece = draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4])))
                data[place : place + len(piece)] = piece
    return bytes(data)


compressed = st.builds(
    EncodedImage,
    st.one_of(st.sampled_from(["jpeg", "png", "bgr8; jpeg compressed bgr8", "16UC1; compressedDepth png"]), st.text()),
    st.one_of(st.sampled_from(FILES).flatmap(damaged), st.binary(max_size=100)).map(
        lambda data: np.frombuffer(data, np.uint8)
    ),
)


def decoded(message: Any) -> np.ndarray | None:
    """What `to_rgb` makes of a message, None for a UserError; both ways to decode must say the same."""
    try:
        rgb = to_rgb(message, MAX_PIXELS)
    except UserError as error:
        check_sentence(error)
        with pytest.raises(UserError):
            to_resized_rgb(message, 32, 48, MAX_PIXELS)
        return None
    small, size = to_resized_rgb(message, 32, 48, MAX_PIXELS)
    assert (rgb.dtype, rgb.ndim, rgb.shape[2]) == (np.uint8, 3, 3)
    assert (small.dtype, small.shape, size) == (np.uint8, (32, 48, 3), rgb.shape[:2])
    return rgb


def check_sentence(error: object) -> None:
    """For a log: one line, not longer than anybody reads, and nothing that a terminal would take for a command."""
    text = str(error)
    assert text.isprintable()
    assert len(text) < 700


@fuzz(600)
@given(images())
@example(Image("i420", 2, 4, 5, np.zeros(15, np.uint8)))  # half of an odd step
@example(Image("a" * 100_000, 1, 1, 1, np.zeros(1, np.uint8)))  # a name that would fill the log
def test_raw_images(message: Image) -> None:
    rgb = decoded(message)
    assert rgb is None or rgb.shape[:2] == (message.height, message.width)


@fuzz(300)
@given(images(), st.from_regex(r"(8U|8S|16U|16S|32S|32F|64F)C\d{1,9}", fullmatch=True))
@example(Image("", 1, 1, 1, np.zeros(1, np.uint8)), "8UC" + "9" * 5000)
@example(Image("", 1, 1, 3, np.zeros(3, np.uint8)), "8UC٣")
def test_arrays(message: Image, matrix: str) -> None:
    for encoding in (message.encoding, matrix):
        message.encoding = encoding
        try:
            values = to_array(message)
        except UserError as error:
            check_sentence(error)
        else:
            assert values.shape[:2] == (message.height, message.width)


@fuzz(800)
@given(compressed)
def test_compressed_images(message: EncodedImage) -> None:
    rgb = decoded(message)
    assert rgb is None or 0 < rgb.shape[0] * rgb.shape[1] <= MAX_PIXELS


IMAGE_CDR = serialized(raw("rgb8", np.zeros((3, 4, 3), np.uint8)))
COMPRESSED_CDR = serialized(encoded("png", np.zeros((3, 4, 3), np.uint8)))
cdr = st.one_of(
    st.sampled_from([IMAGE_CDR, COMPRESSED_CDR]).flatmap(damaged),
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: IMAGE_CDR[:4] + rest),
)


@fuzz(800)
@given(cdr, st.booleans())
def test_serialized_messages(data: bytes, kind: bool) -> None:
    try:
        message = read_image(data, kind)
    except UserError as error:
        check_sentence(error)
    else:
        decoded(message)
        assert header_of(message).frame_id == message.header.frame_id


@fuzz(100)
@given(st.lists(st.tuples(st.one_of(images(), compressed), st.integers(-(2**62), 2**62)), min_size=1, max_size=3))
def test_the_pipeline_makes_of_every_frame_a_result_or_a_sentence(student: Path, frames: list[tuple[Any, int]]) -> None:
    camera = MemoryCamera(("mask", "objects", "features", "attention", "embedding", IMAGE))
    pipeline = Pipeline(Perceiver.load(student, "onnxruntime"), MaskParameters(), MAX_PIXELS)
    for number, (message, stamp) in enumerate(frames, 1):
        pipeline.offer(camera, message, stamp)
        camera.wait(lambda n=number: camera.accounted() == n)
    pipeline.stop()
    for sentence in camera.sentences:
        assert not sentence.startswith("A frame could not be processed"), sentence
        check_sentence(sentence)
    for frame, perception in camera.delivered:
        assert perception.mask is not None
        assert perception.mask.shape == frame.image.size


values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 70),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=20),
    st.lists(st.text(st.sampled_from("ab/_{}~0 ä"), max_size=8), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    st.lists(st.floats(), min_size=1, max_size=3),
    st.binary(min_size=1, max_size=5).map(lambda data: [bytes([byte]) for byte in data]),
    *(st.sampled_from(row.rule.choices) for row in PERCEPTION_PARAMETERS if row.rule.choices),
)
KEPT = {row.name: row.default for row in PERCEPTION_PARAMETERS}


@fuzz(600)
@given(st.dictionaries(st.sampled_from([*KEPT]), values, min_size=1, max_size=3), st.booleans())
def test_parameters(given: dict[str, Any], configured: bool) -> None:
    """ROS refuses other types before the node is asked; what remains is accepted, or refused by name."""
    of_their_type = [Parameter(name, value=value) for name, value in given.items() if type(value) is type(KEPT[name])]
    reason = why_refused(of_their_type, KEPT, configured)
    assert reason.isprintable()
    if reason:
        assert any(parameter.name in reason for parameter in of_their_type)
    else:
        masks = {p.name.removeprefix("mask_"): p.value for p in of_their_type if p.name.startswith("mask_")}
        MaskParameters(**masks)


@fuzz(200)
@given(st.one_of(st.text(), st.sampled_from(["~nobody/x.onnx", "/" * 5000, "x" * 5000, "a\0b", "/root\udc80", "."])))
def test_names_of_students(name: str) -> None:
    with contextlib.suppress(UserError):
        assert find_student(name).is_file()


BAGS: dict[str, tuple[str, str, str]] = {
    "mcap": ("bag", "mcap", "none"),
    "mcap zstd": ("bag", "mcap", "storage"),
    "sqlite3": ("bag", "sqlite3", "none"),
    "sqlite3 zstd": ("bag", "sqlite3", "message"),
    "ros1": ("bag.bag", "ros1", "none"),
    "ros1 bz2": ("bag.bag", "ros1", "bz2"),
    "ros1 lz4": ("bag.bag", "ros1", "lz4"),
}
"""Name, storage and compression of each kind of bag."""


@pytest.mark.parametrize("kind", BAGS)
def test_bags(tmp_path: Path, kind: str) -> None:
    """Cut or damaged anywhere, also in what describes them: frames or a UserError come of it."""
    name, storage, compression = BAGS[kind]
    pixels = noise(3 * 8 * 6 * 3, 0).reshape(3, 6, 8, 3)
    path = write_topics(
        tmp_path / name,
        {"/raw": [raw("rgb8", rgb) for rgb in pixels], "/png": [encoded("png", rgb) for rgb in pixels]},
        storage,
        compression,
    )
    file = next(file for file in (path.iterdir() if path.is_dir() else [path]) if file.suffix != ".yaml")
    whole = file.read_bytes()

    @fuzz(60)
    @given(damaged(whole))
    def check(data: bytes) -> None:
        file.write_bytes(data)
        for topic in ("/raw", "/png"):
            try:
                for frame in open_source(path, topic):
                    decoded(frame.image)
            except UserError as error:
                check_sentence(error)

    check()


def test_metadata_of_bags(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "bag", {"/raw": [raw("rgb8", np.zeros((6, 8, 3), np.uint8))]})
    file = path / "metadata.yaml"

    @fuzz(60)
    @given(damaged(file.read_bytes()))
    def check(data: bytes) -> None:
        file.write_bytes(data)
        with contextlib.suppress(UserError):
            assert len([*open_source(path, "/raw")]) == 1

    check()
