"""Every command of README and tutorial, typed in order, as the pages have it.

The recordings that they name hold 24 frames of the demo's, and a training takes a few steps of two blocks, so that this
is not long.
PyPI does not have the tool `ros2`: what its commands ask of a node is asked with rclpy, and tests/test_launch.py runs
the launch files.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

from bags import write_topics
from rosbags.highlevel import AnyReader

import dino_train.cli
from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.demo.table import TABLE, TOPIC, TRUTH_TOPIC

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 24
SET_UP = r"make|\. |git|pip|rosdep|python -m colcon"
"""Commands that prepare a machine: `.ci/run`, the workflow and tests/test_package.py run those."""
SHORTER = {
    "dino-train pretrain": ["--epochs", "1", "--batch_size", "8", "--backbone.depth", "2"],
    "dino-ros bench": ["--runs", "3"],
}
"""What is added to commands, so that they take less time."""


def commands(page: str) -> list[str]:
    """Lines of the page's code that are commands."""
    lines = re.findall(r"^    (\S.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [line for line in lines if not re.match(SET_UP, line)]


@pytest.fixture(scope="module")
def short_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the demo's recording, with their masks."""
    messages: dict[str, list[Any]] = {TOPIC: [], TRUTH_TOPIC: []}
    with AnyReader([TABLE]) as bag:
        for connection, _, data in bag.messages([c for c in bag.connections if c.topic in messages]):
            if len(messages[connection.topic]) < FRAMES:
                message: Any = bag.deserialize(data, connection.msgtype)
                messages[connection.topic].append((connection.msgtype, (message.format, message.data)))
    return write_topics(tmp_path_factory.mktemp("short") / "table_bag", messages)


class Terminal:
    """A folder in which commands are typed; nodes that were launched run until it is closed."""

    def __init__(self, folder: Path, client: Any, nodes: contextlib.ExitStack) -> None:
        self.folder, self.client, self.nodes = folder, client, nodes
        scripts = Path(sys.executable).parent
        self.environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}

    def type(self, line: str) -> None:
        words = shlex.split(line.replace("$PWD", str(self.folder)), comments=True)
        if words[0] == "ros2":
            typed = {"launch": self.launch, "topic": self.echo, "param": self.set_parameter, "run": self.run}
            typed[words[1]](words[2:])
        elif words[:2] == ["dino-ros", "view"]:
            self.view(words)
        elif words[0] == "dino-train" and words[1] != "pretrain":  # which starts processes of its own
            with pytest.MonkeyPatch.context() as here:
                here.chdir(self.folder)
                dino_train.cli.run(words[1:])  # in this process, which has imported torch
        else:
            shorter = next((options for start, options in SHORTER.items() if line.startswith(start)), [])
            done = subprocess.run(
                [*words, *shorter], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    def view(self, words: list[str]) -> None:
        with subprocess.Popen(
            [*words, "--port", "0"], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as page:
            assert page.stdout is not None
            address = next(found[0] for line in page.stdout if (found := re.search(r"http://\S+", line)))
            assert urllib.request.urlopen(address).status == 200
            page.send_signal(signal.SIGINT)
        assert page.returncode == 130

    def run(self, words: list[str]) -> None:
        package, *command = words
        assert package == "dino_ros"
        self.view(command)

    def launch(self, words: list[str]) -> None:
        package, file, *rest = words
        assert package == "dino_ros"
        assert (ROOT / "launch" / file).exists()
        self.nodes.close()  # in the same terminal
        gone = lambda: ("perception", "/dino") not in self.client.get_node_names_and_namespaces()  # noqa: E731
        self.client.wait(gone, "the end of the node that ran before", 60.0)  # its lease, if it ended in a hurry
        arguments = dict(word.split(":=", 1) for word in rest)
        parameters = {"model": arguments["model"]} if "model" in arguments else {}
        remaps = ["__ns:=/dino", f"image:={arguments.get('image_topic', '/camera/image_raw')}"]
        self.nodes.enter_context(running("perception_node", parameters, tuple(remaps)))
        assert bring_up(self.client, "/dino/perception")
        if "bag" in arguments:
            camera = {"path": arguments["bag"], "loop": True}
            self.nodes.enter_context(running("camera_node", camera, ("__ns:=/camera",)))

    def echo(self, words: list[str]) -> None:
        messages = self.client.listen(words[-1])
        self.client.wait(lambda: messages, f"a message on {words[-1]}", 60.0)

    def set_parameter(self, words: list[str]) -> None:
        _, node, name, value = words
        assert node == "/dino/perception"
        assert self.client.set_parameter(name, value) == (True, "")


@pytest.fixture
def terminal(tmp_path: Path, short_table: Path, client: Any) -> Iterator[Terminal]:
    (tmp_path / "dino_ros" / "demo").mkdir(parents=True)
    for name in ("my_bag", "dino_ros/demo/table_bag"):
        (tmp_path / name).symlink_to(short_table, target_is_directory=True)
    with contextlib.ExitStack() as nodes:
        yield Terminal(tmp_path, client, nodes)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_command_does_what_the_page_says(page: str, terminal: Terminal) -> None:
    typed = commands(page)
    assert len(typed) > 5
    for line in typed:
        terminal.type(line)
    named = re.findall(r"(?:tutorial|runs)/[\w/]+\.(?:png|html|onnx|pt|mp4)", (ROOT / page).read_text())
    assert not [name for name in named if not (terminal.folder / name).exists()]
