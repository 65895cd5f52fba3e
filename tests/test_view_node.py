"""What `dino-ros view` shows of a running node, over real DDS."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")

from clients import PERCEPTION, Client, image

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.errors import UserError
from dino_ros.nodes.running_node import RunningNode
from dino_ros.perception.perceiver import Perceiver


@pytest.fixture
def active(client: Client, student: Path) -> Iterator[Client]:
    """A client, and a perception node that is active with the tiny student."""
    with running("perception_node", {"model": str(student)}, ()):
        assert bring_up(client, PERCEPTION)
        yield client


def test_a_node_is_subscribed_to_only_while_somebody_looks(active: Client, student: Path) -> None:
    viewed = RunningNode(PERCEPTION, None)
    active.wait(lambda: viewed.status(), "diagnostics")
    assert active.camera.get_subscription_count() == 0
    number, scene = 0, None

    def seen() -> bool:
        nonlocal number, scene
        number += 1
        active.send(number, image(1))
        scene = viewed.scene(0, 0.05)
        return scene is not None

    active.wait(seen, "a scene")
    assert scene is not None
    expected = Perceiver.load(student)(image(1))
    np.testing.assert_array_equal(scene.rgb, image(1))
    np.testing.assert_allclose(scene.features, expected.features, atol=1e-6)
    np.testing.assert_allclose(scene.attention, expected.attention, atol=1e-6)

    viewed.set_parameters({"mask_steady": 0.25})
    assert viewed.parameters()["mask_steady"] == 0.25
    with pytest.raises(UserError, match="mask_attention_head"):
        viewed.set_parameters({"mask_attention_head": 60})
    active.wait(lambda: active.camera.get_subscription_count() == 0, "the camera to be left")
    viewed.destroy_node()
