"""An object that is shown to the running node by a click, found from then on, also after a restart; over real DDS."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from clients import PERCEPTION, Client
from geometry_msgs.msg import Point, PointStamped
from imports import ROOT
from numpy.typing import NDArray
from sensor_msgs.msg import Image, RegionOfInterest
from std_srvs.srv import Trigger

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.images.sources import open_source
from dino_ros.messages import to_array
from dino_ros.nodes.messages import mask_message
from dino_ros.perception.perceiver import Perceiver
from dino_ros.perception.pointing import object_in_box
from dino_ros.taught.pictures import read_picture

BAG = ROOT / "dino_ros" / "demo" / "table_bag"


def frames(topic: str, wanted: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    """Some frames of the demo's recording, RGB."""
    return [frame.rgb() for number, frame in enumerate(open_source(str(BAG), topic)) if number in wanted]


class Robot:
    """A user who sends one image again and again, and reads what comes back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.number = 0

    def show(self, rgb: NDArray[np.uint8]) -> None:
        self.number += 1
        self.client.send(self.number, rgb)

    def until(self, condition: Any, what: str, rgb: NDArray[np.uint8]) -> None:
        def met() -> bool:
            self.show(rgb)
            self.client.pause(0.05)
            return bool(condition())

        self.client.wait(met, what)


def test_an_object_is_shown_found_and_remembered(client: Client, tmp_path: Path) -> None:
    (there,), (later,) = frames("/camera/image_raw/compressed", (60,)), frames("/camera/image_raw/compressed", (70,))
    truth, later_truth = (frames("/ground_truth/mask/compressed", (number,))[0][..., 0] for number in (60, 70))
    number = int(np.bincount(truth[truth > 0]).argmax())
    y, x = middle(truth == number)
    folder = tmp_path / "objects"
    parameters = {"taught_folder": str(folder)}
    robot = Robot(client)
    with running("perception_node", parameters, ()):
        assert bring_up(client, PERCEPTION)
        assert client.set_parameter("teach", "objects")[1].startswith("teach: objects cannot be the name of an object")
        assert client.set_parameter("teach", "box")[0]
        assert client.camera.get_subscription_count() == 0, "nothing is taught, and nothing wanted"
        click = client.create_publisher(PointStamped, "/dino/teach/click", 5)
        client.wait(lambda: click.get_subscription_count() == 1, "the node")
        click.publish(PointStamped(point=Point(x=float(x), y=float(y))))
        robot.until(lambda: (folder / "box.json").exists(), "the object's file", there)
        masks = client.listen("/dino/box/mask")
        similarities = client.listen("/dino/box/similarity")
        robot.until(lambda: masks and similarities, "a mask", later)
        robot.until(lambda: masks[-1].header.frame_id == f"camera {robot.number}", "the newest mask", later)
        found = to_array(masks[-1]) > 0
        assert iou(found, later_truth == number) > 0.5
        assert to_array(similarities[-1]).shape == (14, 14)
        undone = client.call(Trigger, f"{PERCEPTION}/undo", Trigger.Request())
        assert undone.success
        assert not (folder / "box.json").exists()
        mask = client.create_publisher(Image, "/dino/teach/mask", 5)
        client.wait(lambda: mask.get_subscription_count() == 1, "the node")
        mask.publish(mask_message(np.multiply(later_truth == number, 255, dtype=np.uint8), masks[-1].header))
        robot.until(lambda: (folder / "box.json").exists(), "the object's file", later)

        # Of a box the object is what `dino-ros teach --box` takes for it.
        box = client.create_publisher(RegionOfInterest, "/dino/teach/box", 5)
        client.wait(lambda: box.get_subscription_count() == 1, "the node")
        left, top, width, height = cv2.boundingRect((truth == number).astype(np.uint8))
        box.publish(RegionOfInterest(x_offset=left, y_offset=top, width=width, height=height))
        robot.until(lambda: (folder / "box" / "look_2.png").exists(), "the second look", there)
        shown = read_picture(folder / "box" / "look_2.png")[:, :, 0] > 0
        expected = object_in_box(Perceiver.load(backend="onnxruntime"), there, left, top, width, height) > 0
        assert 0.1 < np.count_nonzero(expected) / (width * height) < 0.85, "not all of the box"
        assert iou(shown, expected) > 0.9
    with running("perception_node", parameters, ()):
        assert bring_up(client, PERCEPTION)
        masks = client.listen("/dino/box/mask")
        robot.until(lambda: masks, "a mask after a restart", there)
        assert iou(to_array(masks[-1]) > 0, truth == number) > 0.5


def middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel of a mask that is furthest from its edge."""
    distances = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(distances.argmax(), distances.shape)
    return int(row), int(column)


def iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(mask & other) / np.count_nonzero(mask | other))
