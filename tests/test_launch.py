"""The launch files through the real launch service, where launch is installed and the package is built."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros")

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from clients import Client
from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessIO, OnProcessStart
from launch.launch_description_sources import AnyLaunchDescriptionSource, PythonLaunchDescriptionSource
from launch_ros.actions import SetParameter, SetUseSimTime
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from dino_ros.demo.lifecycle import change_state
from dino_ros.demo.table import TABLE, TOPIC
from dino_ros.images.stamps import stamp_ns

try:
    LAUNCH = Path(get_package_share_directory("dino_ros")) / "launch"
except PackageNotFoundError:
    pytest.skip("dino_ros is not built and sourced", allow_module_level=True)

NODE_PAGE = Path(__file__).resolve().parents[1] / "docs" / "node.md"


@pytest.fixture
def client(ros: None) -> Iterator[Client]:
    node = Client(topic="/front/image_raw")
    yield node
    node.destroy_node()


def launched(
    file: str | Path, arguments: dict[str, str], body: Callable[[], None] | None = None, before: tuple[Any, ...] = ()
) -> int:
    """Run a launch file while `body` runs in a thread of its own; returns the launch's exit code.

    A mere name is that of one of ours. Without a body the launch must end by itself, within 30 seconds. `before` are
    actions of the launch file that includes it.
    """
    include = IncludeLaunchDescription(
        AnyLaunchDescriptionSource(str(LAUNCH / file)), launch_arguments=arguments.items()
    )
    service = LaunchService(noninteractive=True)
    service.include_launch_description(LaunchDescription([*before, include]))

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
            exit_code = await running  # also where the body failed: no process is left behind
        return int(exit_code)

    return asyncio.new_event_loop().run_until_complete(both())


def node_output(said: list[str]) -> RegisterEventHandler:
    """An action that appends what the nodes print to a list."""

    def keep(event: Any) -> None:
        said.append(event.text.decode())

    return RegisterEventHandler(OnProcessIO(on_stdout=keep, on_stderr=keep))


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


@pytest.mark.parametrize("language", ["xml", "yaml"])
def test_the_examples_in_xml_and_yaml_bring_the_node_up(client: Client, tmp_path: Path, language: str) -> None:
    pytest.importorskip(f"launch_{language}")
    examples = re.findall(rf"```{language}\n(.*?)```", NODE_PAGE.read_text(), re.DOTALL)
    file = tmp_path / f"robot.launch.{language}"
    (text,) = [example for example in examples if "find-pkg-share" in example]
    file.write_text(text)

    def body() -> None:
        client.listen("/eyes/attention_mask")
        client.wait(lambda: client.count_subscribers("/front/image_raw") == 1, "the node's subscription")
        assert state(client, "/eyes/perception") == "active"
        assert parameters(client, "max_rate", node="/eyes/perception") == [10.0]

    launched(file, {}, body)


def parameters(client: Client, *names: str, node: str = "/dino/perception") -> list[Any]:
    answer = client.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names))
    return [parameter_value_to_python(value) for value in answer.values]


def test_what_the_including_launch_file_sets_is_not_overridden_by_defaults(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**/perception:\n  ros__parameters:\n    max_rate: 7.0\n    input_decimation: 3\n")
    before = (SetParameter("use_sim_time", True), SetParameter("max_rate", 5.0), SetParameter("mask_steady", 0.25))
    names = ("use_sim_time", "max_rate", "mask_steady", "input_decimation", "backend")

    def with_defaults() -> None:
        assert parameters(client, *names) == [True, 5.0, 0.25, 1, "auto"]

    def with_a_file() -> None:
        assert parameters(client, *names) == [False, 7.0, 0.25, 3, "openvino"]

    launched("perception.launch.py", {"autostart": "false"}, with_defaults, before)
    arguments = {"params_file": str(file), "use_sim_time": "false", "backend": "openvino", "autostart": "false"}
    launched("perception.launch.py", arguments, with_a_file, before)


def test_the_including_launch_file_sets_simulated_time(client: Client) -> None:
    def body() -> None:
        assert parameters(client, "use_sim_time") == [True]

    launched("perception.launch.py", {"autostart": "false"}, body, (SetUseSimTime(True),))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"params_file": "/nowhere.yaml"}, "params_file /nowhere.yaml is not a file"),
        ({"image_topic": "/a topic"}, "image_topic '/a topic' is not a topic name"),
        ({"image_topic": "/{camera}/image", "cameras": "a,b c"}, "image_topic '/b c/image' is not a topic name"),
        ({"image_topic": "/image", "cameras": "a,b"}, "image_topic /image is the same topic for 2 cameras"),
        ({"namespace": "my robot"}, "namespace 'my robot' is not a namespace"),
        ({"model": "/nowhere.onnx"}, "The perception node failed while it was configuring"),
        ({"cameras": "b c"}, "The perception node ended with exit code 2"),
    ],
)
def test_a_start_that_fails_ends_the_launch(
    ros: None, caplog: pytest.LogCaptureFixture, arguments: dict[str, str], sentence: str
) -> None:
    said: list[str] = []
    assert launched("perception.launch.py", arguments, before=(node_output(said),)) == 1
    assert sentence in caplog.text
    assert "Traceback" not in "".join(said) + caplog.text


@pytest.mark.parametrize("options", [{}, {"autostart": "false", "respawn": "true"}], ids=["", "no autostart, respawn"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("/**/perception:\n  ros__parameters: [", "bad.yaml'. Error: Error parsing a event near line 2"),
        (
            "/**/perception:\n  max_rate: 1.0\n",
            "bad.yaml'. Error: Cannot have a value before ros__parameters at line 2",
        ),
        (
            "/**/perception:\n  ros__parameters:\n    max_rate: fast\n",
            "The parameter max_rate must have the type of 0.0",
        ),
    ],
    ids=["not YAML", "no parameters", "wrong type"],
)
def test_a_bad_params_file_ends_the_launch(
    ros: None, caplog: pytest.LogCaptureFixture, tmp_path: Path, content: str, sentence: str, options: dict[str, str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    arguments = {"params_file": str(file), **options}
    said: list[str] = []
    assert launched("perception.launch.py", arguments, before=(node_output(said),)) == 1
    assert "The perception node ended with exit code 2" in caplog.text
    assert sentence in "".join(said)
    assert "Traceback" not in "".join(said)


def test_later_transitions_are_left_alone(client: Client) -> None:
    """A configure that fails does not end the launch; one that succeeds is not followed by activate."""
    node = "/dino/perception"

    def body() -> None:
        client.wait(lambda: state(client, node) == "active", "the node to be active")
        assert change_state(client, node, Transition.TRANSITION_DEACTIVATE)
        assert change_state(client, node, Transition.TRANSITION_CLEANUP)
        assert client.set_parameter("model", "/nowhere.onnx")[0]
        assert not change_state(client, node, Transition.TRANSITION_CONFIGURE)
        client.pause(2.0)
        assert client.set_parameter("model", "")[0]
        assert change_state(client, node, Transition.TRANSITION_CONFIGURE)
        client.pause(2.0)
        assert state(client, node) == "inactive"

    assert launched("perception.launch.py", {}, body) == 0


@pytest.mark.parametrize("respawn", ["true", "false"])
def test_a_node_that_is_killed(client: Client, caplog: pytest.LogCaptureFixture, respawn: str) -> None:
    """It is started again and becomes active, or ends the launch."""
    pids: list[int] = []
    watch = RegisterEventHandler(OnProcessStart(on_start=lambda event, context: pids.append(event.pid)))

    def active() -> bool:
        return client.diagnosis(lambda status: True).message.startswith(("active", "no images"))

    def body() -> None:
        client.wait(active, "the node to be active")
        os.kill(pids[0], signal.SIGKILL)
        if respawn == "true":
            client.wait(lambda: len(pids) == 2, "the second process")
            client.wait(active, "the second process to be active")
        else:
            client.wait(lambda: "The perception node ended with exit code -9" in caplog.text, "the launch's word")

    assert launched("perception.launch.py", {"respawn": respawn}, body, (watch,)) == (respawn == "false")


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bag": "/nowhere"}, "The camera node ended with exit code 2"),
        ({"bag": "/nowhere", "rate": "-1"}, "The camera node ended with exit code 2"),
        ({"bag": "/nowhere", "rate": "fast"}, "rate 'fast' is not a number"),
        ({"bag": str(TABLE), "topic": TOPIC, "model": "/nowhere.onnx"}, "The perception node failed while it was"),
    ],
)
def test_a_replay_that_cannot_start_ends(
    ros: None, caplog: pytest.LogCaptureFixture, arguments: dict[str, str], sentence: str
) -> None:
    said: list[str] = []
    assert launched("replay.launch.py", arguments, before=(node_output(said),)) == 1
    assert sentence in caplog.text
    assert "Traceback" not in "".join(said) + caplog.text


def test_replay_gives_calibration_and_time(client: Client) -> None:
    images: list[Image] = []
    infos: list[CameraInfo] = []
    clock: list[Clock] = []
    client.create_subscription(Image, "/camera/image_raw", images.append, 50)
    client.create_subscription(CameraInfo, "/camera/camera_info", infos.append, 50)
    client.create_subscription(Clock, "/clock", clock.append, 50)
    masks: list[Image] = []
    client.create_subscription(Image, "/dino/attention_mask", masks.append, 10)

    def body() -> None:
        client.wait(lambda: len(images) > 20 and len(infos) > 20, "images and their calibration")
        client.wait(lambda: masks, "a mask, in simulated time")
        assert parameters(client, "use_sim_time") == [True]

    launched("replay.launch.py", {"bag": str(TABLE), "topic": TOPIC, "clock": "true"}, body)
    assert {stamp_ns(info) for info in infos[:20]} == {stamp_ns(image) for image in images[:20]}
    times = [message.clock.sec for message in clock]
    assert times == sorted(times)
    assert times[0] == stamp_ns(images[0]) // 1_000_000_000


def test_replay_shows_only_the_arguments_that_it_takes() -> None:
    source = PythonLaunchDescriptionSource(str(LAUNCH / "replay.launch.py"))
    shown = {argument.name for argument in source.get_launch_description(LaunchContext()).get_launch_arguments()}
    assert shown == {
        *("bag", "topic", "rate", "loop", "clock", "image_transport", "model", "backend", "namespace", "params_file"),
        "log_level",
        "taught_folder",
        "viz",
    }


def test_the_depth_node_becomes_active_on_the_topics_it_is_given(client: Client) -> None:
    def body() -> None:
        client.create_subscription(PointCloud2, "/eyes/points", lambda message: None, 10)
        topics = ("/rig/depth", "/rig/camera_info", "/front/image_raw", "/eyes/cup/mask", "/eyes/objects")
        client.wait(lambda: all(client.count_subscribers(topic) == 1 for topic in topics), "the subscriptions")
        assert state(client, "/eyes/depth") == "active"

    arguments = {"depth_topic": "/rig/depth", "image_topic": "/front/image_raw", "names": "objects, cup"}
    assert launched("depth.launch.py", {**arguments, "namespace": "eyes"}, body) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"names": "a b"}, "The depth node ended with exit code 2"),
        ({"params_file": "/nowhere.yaml"}, "params_file /nowhere.yaml is not a file"),
    ],
)
def test_a_depth_node_that_cannot_start_ends_the_launch(
    ros: None, caplog: pytest.LogCaptureFixture, arguments: dict[str, str], sentence: str
) -> None:
    assert launched("depth.launch.py", arguments) == 1
    assert sentence in caplog.text


def test_camera_and_depth_become_grasp_points(client: Client) -> None:
    pytest.importorskip("vision_msgs", reason="vision_msgs is not installed")

    def body() -> None:
        client.wait(lambda: client.count_publishers("/grasp_points/grasps") == 1, "the node of the example")
        assert parameters(client, "name", "max_opening", node="/grasp_points") == ["", 0.14]
        # Somebody wants boxes, so somebody wants objects and depth, so somebody wants images.
        client.wait(lambda: client.count_subscribers("/front/depth") == 1, "the depth node's subscription")
        client.wait(lambda: client.count_subscribers("/front/image_raw") == 1, "the perception node's subscription")

    arguments = {"image_topic": "/front/image_raw", "depth_topic": "/front/depth", "max_opening": "0.14"}
    assert launched("grasp_points.launch.xml", arguments, body) == 0


@pytest.fixture
def rviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package rviz2 in the index whose program writes its arguments and its settings to the returned file."""
    seen, prefix = tmp_path / "seen", tmp_path / "prefix"
    program = prefix / "lib" / "rviz2" / "rviz2"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\n(echo "$@"; cat "$2") > {seen}.part; mv {seen}.part {seen}\n')
    program.chmod(0o755)
    index = prefix / "share" / "ament_index" / "resource_index" / "packages" / "rviz2"
    index.parent.mkdir(parents=True)
    index.touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")
    return seen


def test_rviz_shows_the_topics_of_the_node(client: Client, rviz: Path) -> None:
    def body() -> None:
        client.wait(rviz.exists, "rviz2")

    arguments = {"namespace": "eyes", "image_topic": "/front/image_raw", "autostart": "false", "viz": "rviz"}
    assert launched("perception.launch.py", arguments, body) == 0
    said, _, settings = rviz.read_text().partition("\n")
    assert said.startswith("-d ")
    assert "Value: /front/image_raw\n" in settings
    assert "Value: /eyes/overlay\n" in settings
    assert "/dino/" not in settings


@pytest.mark.parametrize(
    ("file", "arguments"), [("perception.launch.py", {}), ("replay.launch.py", {"bag": str(TABLE), "topic": TOPIC})]
)
def test_a_viewer_that_is_not_installed_is_named_before_anything_starts(
    ros: None, caplog: pytest.LogCaptureFixture, file: str, arguments: dict[str, str]
) -> None:
    started: list[int] = []
    watch = RegisterEventHandler(OnProcessStart(on_start=lambda event, context: started.append(event.pid)))
    assert launched(file, {**arguments, "viz": "foxglove"}, before=(watch,)) == 1
    assert "viz:=foxglove needs the package foxglove_bridge, which is not installed: sudo apt install" in caplog.text
    assert not started


def test_the_learner_node_becomes_active_on_the_camera_it_is_given(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")

    def body() -> None:
        client.wait(lambda: client.count_subscribers("/front/image_raw") == 1, "the subscription")
        assert state(client, "/eyes/learner") == "active"
        assert (tmp_path / "seen" / "index.sqlite").is_file()

    arguments = {"image_topic": "/front/image_raw", "namespace": "eyes", "folder": str(tmp_path / "seen")}
    assert launched("learn.launch.py", arguments, body) == 0


def test_a_learner_that_cannot_start_ends_the_launch(ros: None, caplog: pytest.LogCaptureFixture) -> None:
    assert launched("learn.launch.py", {"folder": "/dev/null"}) == 1
    assert "The learner node failed while it was configuring" in caplog.text
