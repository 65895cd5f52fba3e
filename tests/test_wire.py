"""Messages read from the wire against rclpy's own reading of the same bytes."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from dino_ros.errors import UserError
from dino_ros.nodes.wire import header_of, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, 5 * 7 * 3, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("frame_id", ["", "a", "camera_optical_frame", "Kamera-äöü"])
def test_raw_image(frame_id: str) -> None:
    sent = Image(height=5, width=7, encoding="rgb8", is_bigendian=1, step=21, data=PIXELS)
    sent.header.frame_id = frame_id
    sent.header.stamp.sec, sent.header.stamp.nanosec = -3, 999_999_999
    data = serialize_message(sent)
    read, expected = read_image(data, compressed=False), deserialize_message(data, Image)
    for name in ("height", "width", "encoding", "is_bigendian", "step"):
        assert getattr(read, name) == getattr(expected, name)
    assert read.data.tobytes() == bytes(expected.data)
    assert not read.data.flags.owndata  # no copy of the frame
    assert header_of(read) == expected.header


def test_compressed_image() -> None:
    sent = CompressedImage(format="bgr8; jpeg compressed bgr8", data=PIXELS)
    sent.header.frame_id = "front"
    read = read_image(serialize_message(sent), compressed=True)
    assert read.format == sent.format
    assert read.data.tobytes() == PIXELS
    assert header_of(read) == sent.header


@pytest.mark.parametrize("length", [0, 3, 12, 40, 100])
def test_bytes_that_are_not_a_message_are_refused(length: int) -> None:
    whole = serialize_message(Image(height=5, width=7, encoding="rgb8", step=21, data=PIXELS))
    with pytest.raises(UserError, match=f"{length} bytes .*sensor_msgs/msg/Image"):
        read_image(bytes(whole)[:length], compressed=False)
