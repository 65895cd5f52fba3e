"""NumPy to real ROS messages and back, over the wire format."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.messages import to_array
from dino_ros.nodes.messages import jpeg_message, mask_message, rgb_message, tensor_message


def over_the_wire(message: Image | CompressedImage) -> Image | CompressedImage:
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize("channels", [1, 3, 384, 768, 1024])
def test_tensors_of_any_channels_come_back(channels: int) -> None:
    """768 and 1024 are those that cv_bridge misreads."""
    tensor = np.random.default_rng(0).normal(size=(5, 7, channels)).astype(np.float32)
    header = Header(frame_id="camera")
    message = over_the_wire(tensor_message(tensor.transpose(0, 1, 2)[:, ::-1], header))
    assert (message.encoding, message.step, message.header) == (f"32FC{channels}", 7 * channels * 4, header)
    np.testing.assert_array_equal(to_array(message).reshape(tensor.shape), tensor[:, ::-1])


def test_images_and_masks_come_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    mask = rgb[:, :, 0]
    np.testing.assert_array_equal(to_array(over_the_wire(rgb_message(rgb, Header()))), rgb)
    np.testing.assert_array_equal(to_rgb(over_the_wire(rgb_message(rgb, Header()))), rgb)
    np.testing.assert_array_equal(to_array(over_the_wire(mask_message(mask, Header()))), mask)
    smooth = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(to_rgb(over_the_wire(jpeg_message(smooth, Header()))).astype(int), smooth, atol=3)


def test_an_image_of_no_rows_comes_back() -> None:
    """As of the descriptors where no object is seen; from a camera it is a mistake."""
    message = over_the_wire(tensor_message(np.zeros((0, 1, 384), np.float32), Header(frame_id="camera")))
    assert (message.height, message.width, message.encoding, len(message.data)) == (0, 1, "32FC384", 0)
    values = to_array(message)
    assert (values.shape, values.dtype) == ((0, 1, 384), np.float32)
    with pytest.raises(UserError, match="1x0 pixels is empty"):
        to_rgb(Image(height=0, width=1, encoding="mono8", step=1))
    with pytest.raises(UserError, match="0x2 pixels is empty"):
        to_array(Image(height=2, width=0, encoding="mono8"))


def test_foreign_layouts_are_read() -> None:
    """Padded rows and big-endian values, as other publishers send them."""
    values = np.arange(12, dtype=np.float64).reshape(2, 3, 2)
    rows = np.hstack([values.astype(">f8").reshape(2, -1).view(np.uint8), np.zeros((2, 5), np.uint8)])
    message = Image(height=2, width=3, encoding="64FC2", is_bigendian=1, step=rows.shape[1], data=rows.tobytes())
    np.testing.assert_array_equal(to_array(message), values)
    with pytest.raises(UserError, match="'bayer_rggb8' cannot be read as an array"):
        to_array(Image(height=1, width=1, encoding="bayer_rggb8", step=1, data=b"0"))
    with pytest.raises(UserError, match="'32FC0' cannot be read as an array"):
        to_array(Image(height=1, width=1, encoding="32FC0", step=4, data=b"0000"))
