"""The decoder of examples/cpp, compiled against ROS's own C++ messages and fed with what rclpy serializes.

Its node needs rclcpp, which pip cannot install: that is not compiled here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from imports import ROOT
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from dino_ros.messages import to_array
from dino_ros.nodes.messages import tensor_message

LIBRARIES = ("rmw_fastrtps_cpp", "rmw", "rcutils", "sensor_msgs__rosidl_typesupport_cpp", "rosidl_typesupport_cpp")

Decode = Callable[[Image], subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """Runs the compiled decoder on a message."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    prefixes = [Path(path) for path in [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix] if path]
    prefix = next(path for path in prefixes if (path / "include" / "rmw").is_dir())
    folder = tmp_path_factory.mktemp("cpp")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", ROOT / "examples" / "cpp"]
    for include in sorted((prefix / "include").iterdir()):
        command += ["-isystem", include]
    command += [ROOT / "tests" / "decode_features.cpp", "-o", folder / "decode"]
    # What ROS's libraries need themselves lies in folders of its own, which the environment names.
    command += ["-L", prefix / "lib", f"-Wl,-rpath,{prefix / 'lib'},--allow-shlib-undefined"]
    subprocess.run([*command, *(f"-l{library}" for library in LIBRARIES)], check=True)

    def run(message: Image) -> subprocess.CompletedProcess[bytes]:
        (folder / "message").write_bytes(serialize_message(message))
        return subprocess.run([folder / "decode", folder / "message"], capture_output=True, check=False)

    return run


def features(seed: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def big_endian_and_padded(tensor: NDArray[np.float32]) -> Image:
    message = tensor_message(tensor, Header())
    rows = tensor.astype(">f4").reshape(len(tensor), -1).view(np.uint8)
    message.is_bigendian = 1
    message.step += 12
    message.data = np.hstack([rows, np.full((len(rows), 12), 255, np.uint8)]).tobytes()
    return message


@pytest.mark.parametrize(
    "message",
    [
        tensor_message(features(0, (5, 4, 1024)), Header(frame_id="a camera")),
        tensor_message(features(1, (1, 1, 3)), Header()),
        big_endian_and_padded(features(2, (3, 7, 6))),
    ],
    ids=["1024 channels", "one cell", "big-endian and padded"],
)
def test_features_are_those_of_to_array(decode: Decode, message: Image) -> None:
    expected = to_array(message)
    rows, columns, channels = expected.shape
    finished = decode(message)
    assert finished.returncode == 0, finished.stderr
    assert np.frombuffer(finished.stdout[:24], np.uint64).tolist() == [rows, columns, channels]
    values = np.frombuffer(finished.stdout[24:], np.float32)
    np.testing.assert_array_equal(values[: expected.size].reshape(expected.shape), expected)
    directions = expected / np.linalg.norm(expected, axis=2, keepdims=True)
    similarities = (directions @ directions[rows // 2, columns // 2]).ravel()
    np.testing.assert_allclose(values[expected.size :], similarities, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"encoding": "rgb8"}, b"rgb8 is not 32FC<N>"),
        ({"encoding": "32FC0"}, b"32FC0 is not 32FC<N>"),
        ({"encoding": "32FC999999999"}, b"too small for a row"),
        ({"width": 2**32 - 1}, b"too small for a row"),
        ({"height": 2**32 - 1}, b"too few for 4294967295 rows"),
        ({"height": 0}, b"empty"),
        ({"data": bytes(8)}, b"8 bytes of data are too few"),
    ],
)
def test_messages_that_hold_no_features_are_refused(decode: Decode, fields: dict[str, object], sentence: bytes) -> None:
    message = tensor_message(features(3, (2, 3, 4)), Header())
    for name, value in fields.items():
        setattr(message, name, value)
    finished = decode(message)
    assert finished.returncode == 1
    assert sentence in finished.stderr
