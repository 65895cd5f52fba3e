"""examples/place_recognition.py: on embeddings made by hand, on a rendered hall driven round twice, and over DDS."""

import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import write_bag
from imports import ROOT
from numpy.typing import NDArray

from dino_ros.images.stamps import SECOND
from dino_ros.perception.perceiver import Perceiver

EXAMPLE = ROOT / "examples" / "place_recognition.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def route(places: list[int]) -> NDArray[np.float32]:
    """An embedding for each place: neighbors along the route are alike, all share a large part."""
    steps = np.random.default_rng(0).normal(size=(max(places) + 4, 64))
    smooth = np.stack([steps[i : i + 4].sum(axis=0) for i in range(max(places) + 1)])
    return (100 + smooth[places]).astype(np.float32)


def revisits(example: dict[str, Any], places: list[int], every: float = 1.0) -> dict[int, int]:
    """For each image of a place seen before, the number of the earlier image; images come once a second."""
    memory = example["Places"](every, apart=5.0)
    found = {i: memory.look(i * SECOND, embedding) for i, embedding in enumerate(route(places))}
    return {i: revisit.stamp // SECOND for i, revisit in found.items() if revisit}


def test_places_are_recognized_on_the_way_and_on_the_way_back(example: dict[str, Any]) -> None:
    out, again = [*range(20)], [*range(3, 12)]
    assert revisits(example, out) == {}
    there = revisits(example, [*out, *again])
    assert there == {number: place for number, place in enumerate(again, start=20) if number > 20}, "after two in a row"
    back = revisits(example, [*out, *out[-2::-1]])
    assert back == {number: place for number, place in enumerate(out[-2::-1], start=20) if number - place >= 5}


def test_images_that_come_too_soon_are_left_out(example: dict[str, Any]) -> None:
    memory = example["Places"](every=1.0, apart=5.0)
    for stamp in (0, 999_999_999, SECOND, SECOND, 0, 2 * SECOND):
        memory.look(stamp, np.ones(4, np.float32))
    assert memory.stamps == [0, SECOND, 2 * SECOND]


def test_a_rendered_hall_is_recognized_on_the_second_round(example: dict[str, Any]) -> None:
    pytest.importorskip("pybullet")
    from halls import rounds

    views = list(rounds(2, views=40, seed=0))
    perceiver, memory = Perceiver.load(), example["Places"](every=1.0, apart=5.0)
    right = wrong = 0
    for number, view in enumerate(views):
        if revisit := memory.look(number * SECOND, perceiver(view.rgb, ("embedding",)).embedding):
            right += view.shows_the_place_of(views[revisit.stamp // SECOND])
            wrong += not view.shows_the_place_of(views[revisit.stamp // SECOND])
    assert wrong <= 3
    assert right >= 24  # of 40


def test_a_bag_is_looked_at_without_ros(tmp_path: Path, student: Path) -> None:
    write_bag(tmp_path / "bag", frames=6)
    command = [sys.executable, EXAMPLE, tmp_path / "bag", "--model", student, "--every", "0.2", "--apart", "0.3"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "has several image topics: choose one of" in refused.stderr
    finished = subprocess.run([*command, "--topic", "/raw"], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith(" of 3 images show a place seen before.\n")


def test_the_node_says_what_the_embeddings_say(ros: None) -> None:
    pytest.importorskip("rclpy")
    from clients import Client, header
    from sensor_msgs.msg import Image

    from dino_ros.nodes.messages import tensor_message

    client = Client(Image, "/dino/embedding")
    command = [sys.executable, EXAMPLE, "--every", "1", "--apart", "5", "--ros-args", "--log-level", "info"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            client.camera_heard()
            # Fewer than the subscriber's queue holds, as they come at once.
            for number, embedding in enumerate(route([*range(7), 0, 1])):
                client.camera.publish(tensor_message(embedding[None, None], header(1000 * number, "camera")))
            assert process.stderr is not None
            assert "seen before, 7.0 s ago, similarity 1.00" in process.stderr.readline()
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    client.destroy_node()
