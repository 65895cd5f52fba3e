"""What `dino-ros view` shows of a running node, over real DDS."""

import contextlib
import http.client
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")

from clients import PERCEPTION, Client, image
from clients_view import Page

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
    layers: tuple[str, ...] = ("attention", "similarity")
    wanted: tuple[Any, ...] = (lambda scene: scene.features, lambda scene: scene.attention)

    def seen() -> bool:
        nonlocal number, scene
        number += 1
        active.send(number, image(1))
        scene = viewed.scene(0, 0.05, layers)
        return scene is not None and all(value(scene) is not None for value in wanted)

    active.wait(seen, "a scene")
    assert scene is not None
    expected = Perceiver.load(student)(image(1))
    np.testing.assert_array_equal(scene.rgb, image(1))
    np.testing.assert_allclose(scene.features, expected.features, atol=1e-6)
    np.testing.assert_allclose(scene.attention, expected.attention, atol=1e-6)
    hidden = [f"/dino/{topic}" for topic in ("attention_mask", "objects", "features_rgb")]
    assert [active.count_subscribers(topic) for topic in hidden] == [0, 0, 0]

    layers, wanted = ("mask", "features"), (lambda scene: scene.mask, lambda scene: scene.colors)
    active.wait(seen, "the mask and the node's colors")
    np.testing.assert_array_equal(scene.colors, Perceiver.load(student).feature_colors.rgb(expected.features))
    active.wait(lambda: active.count_subscribers("/dino/features") == 0, "the features to be left")

    viewed.set_parameters({"mask_steady": 0.25})
    assert viewed.parameters()["mask_steady"] == 0.25
    with pytest.raises(UserError, match="mask_attention_head"):
        viewed.set_parameters({"mask_attention_head": 60})
    active.wait(lambda: active.camera.get_subscription_count() == 0, "the camera to be left")
    viewed.destroy_node()


def unanswered(request: Callable[[], Any]) -> None:
    """Ask a server that may end meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        request()


def test_ctrl_c_ends_it_without_a_word(ros: None) -> None:
    command = [sys.executable, "-m", "dino_ros.cli", "view", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("Open http://localhost:"))
        page = Page(int(line.split(":")[2].partition("/")[0]))
        told = page.frame(after=0)
        assert "is not heard" in told["waiting_for"]
        # Two requests are on their way, one of which would wait for the node's answer.
        waiting = [
            threading.Thread(target=unanswered, args=(request,))
            for request in (lambda: page.frame(after=0), lambda: page.post("/parameters", {"mask_steady": 0.25}))
        ]
        for thread in waiting:
            thread.start()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, "")
        for thread in waiting:
            thread.join()
    finally:
        process.kill()
