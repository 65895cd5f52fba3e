"""The launch files through the real launch service, where launch is installed and the package is built."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros")

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from clients import Client
from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lifecycle_msgs.srv import GetState
from sensor_msgs.msg import CompressedImage, Image

try:
    LAUNCH = Path(get_package_share_directory("dino_ros")) / "launch"
except PackageNotFoundError:
    pytest.skip("dino_ros is not built and sourced", allow_module_level=True)


@pytest.fixture
def client(ros: None) -> Iterator[Client]:
    node = Client(topic="/front/image_raw")
    yield node
    node.destroy_node()


def launched(name: str, arguments: dict[str, str], body: Callable[[], None] | None) -> int:
    """Run a launch file while `body` runs in a thread of its own; returns the launch's exit code.

    Without a body the launch must end by itself, within 30 seconds.
    """
    include = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / name)), launch_arguments=arguments.items()
    )
    service = LaunchService(noninteractive=True)
    service.include_launch_description(LaunchDescription([include]))

    async def both() -> int:
        running = asyncio.ensure_future(service.run_async())
        try:
            if body is None:
                await asyncio.wait_for(asyncio.shield(running), timeout=30.0)
            else:
                await asyncio.get_running_loop().run_in_executor(None, body)
        finally:
            if (stopping := service.shutdown()) is not None:  # None when it has ended by itself
                await stopping
        return int(await running)

    return asyncio.new_event_loop().run_until_complete(both())


def state(client: Client, node: str) -> str:
    service = client.create_client(GetState, f"{node}/get_state")
    assert service.wait_for_service(timeout_sec=30.0)
    future: Any = service.call_async(GetState.Request())
    client.wait(future.done, "the node's state")
    return str(future.result().current_state.label)


@pytest.mark.parametrize(("transport", "suffix"), [("raw", ""), ("compressed", "/compressed")])
def test_the_node_becomes_active_on_the_topic_it_is_given(client: Client, transport: str, suffix: str) -> None:
    def body() -> None:
        client.listen("/eyes/attention_mask")
        client.wait(lambda: client.count_subscribers(f"/front/image_raw{suffix}") == 1, "the node's subscription")
        assert state(client, "/eyes/perception") == "active"
        assert client.count_publishers("/eyes/attention_mask") == 1

    arguments = {"image_topic": "/front/image_raw", "image_transport": transport, "namespace": "eyes"}
    launched("perception.launch.py", arguments, body)


def test_several_cameras_are_found_by_a_pattern(client: Client) -> None:
    def body() -> None:
        client.listen("/dino/left/attention_mask")
        client.wait(lambda: client.count_subscribers("/rig/left/image") == 1, "the subscription to the left camera")
        assert client.count_subscribers("/rig/right/image") == 0  # nobody wants its results
        assert client.count_publishers("/dino/right/attention_mask") == 1

    launched("perception.launch.py", {"cameras": "left,right", "image_topic": "/rig/{camera}/image"}, body)


def test_without_autostart_it_stays_unconfigured(client: Client) -> None:
    def body() -> None:
        client.pause(3.0)
        assert state(client, "/dino/perception") == "unconfigured"

    launched("perception.launch.py", {"autostart": "false"}, body)


def test_what_params_file_says_is_not_overridden_by_defaults(client: Client, student: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**/perception:\n  ros__parameters:\n    model: {student}\n    image_transport: compressed\n")

    def body() -> None:
        status = client.diagnosis(lambda s: s.message.startswith(("active", "no images")))
        values = {pair.key: pair.value for pair in status.values}
        assert values["model"] == str(student)
        assert values["image topic"] == "/dino/image/compressed"

    launched("perception.launch.py", {"params_file": str(file)}, body)


def test_a_model_that_cannot_be_used_ends_the_launch(client: Client) -> None:
    def body() -> None:
        client.wait(lambda: client.count_publishers("/diagnostics") == 1, "the node")
        client.wait(lambda: client.count_publishers("/diagnostics") == 0, "the end of the node")

    launched("perception.launch.py", {"model": "/nowhere.onnx"}, body)


@pytest.mark.parametrize(("transport", "kind"), [("raw", Image), ("compressed", CompressedImage)])
def test_replay_plays_a_bag(client: Client, tmp_path: Path, transport: str, kind: type) -> None:
    from bags import write_bag

    write_bag(tmp_path / "bag", frames=5)
    masks: list[Image] = []
    client.create_subscription(Image, "/dino/attention_mask", masks.append, 10)

    def body() -> None:
        client.wait(lambda: len(masks) > 10, "more masks than the bag has frames, since it loops")

    arguments = {"bag": str(tmp_path / "bag"), "topic": "/raw", "image_transport": transport}
    launched("replay.launch.py", arguments, body)
    assert masks[0].header.frame_id == "camera"


def test_the_large_frame_profile_is_set_unless_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.actions import SetEnvironmentVariable

    def variables() -> dict[str, str]:
        source = PythonLaunchDescriptionSource(str(LAUNCH / "perception.launch.py"))
        description = source.get_launch_description(LaunchContext())
        actions = [action for action in description.entities if isinstance(action, SetEnvironmentVariable)]
        return {action.name[0].text: action.value[0].text for action in actions}

    assert variables() == {}, "the tests' own profile is kept"
    for variable in [name for name in os.environ if name.endswith("_DEFAULT_PROFILES_FILE")]:
        monkeypatch.delenv(variable)
    assert set(variables()) == {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    assert all(Path(path).is_file() for path in variables().values())


def test_replay_of_a_missing_bag_ends_the_launch(client: Client) -> None:
    launched("replay.launch.py", {"bag": "/nowhere"}, None)
    client.wait(lambda: client.count_publishers("/diagnostics") == 0, "the end of the node")


def test_a_missing_params_file_ends_the_launch() -> None:
    assert launched("perception.launch.py", {"params_file": "/nowhere.yaml"}, None) == 1
