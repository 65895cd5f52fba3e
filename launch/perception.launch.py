"""Start the perception node on a camera and bring it to active."""

import asyncio
import contextlib
import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Event, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from rclpy.exceptions import InvalidNamespaceException, InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_namespace import validate_namespace

from dino_ros.backends import BACKENDS
from dino_ros.errors import UserError
from dino_ros.nodes.transport import profile_environment
from dino_ros.nodes.viewers import VIEWERS, check_installed, settings_for

SHARE = Path(get_package_share_directory("dino_ros"))
DEFAULTS = SHARE / "config" / "perception.yaml"
RESPAWN_DELAY = 2.0
"""Seconds between the end of the node and its next start."""
BAD_INPUT = 2
"""The node's exit code when it cannot use its parameters: it would end so again."""

ARGUMENTS = [
    DeclareLaunchArgument("image_topic", default_value="", description="Camera topic to subscribe to, without "
                          "`/compressed`; a relative name is inside the namespace. With several cameras, {camera} "
                          "stands for each name, as in /{camera}/image_raw. Empty: `image`, or {camera}/image."),
    DeclareLaunchArgument("cameras", default_value="", description="Names of several cameras, such as front,left,rear: "
                          "one node and one student for all, results under <camera>/. Empty: as in params_file."),
    DeclareLaunchArgument("image_transport", default_value="", choices=["", "raw", "compressed"],
                          description="raw for sensor_msgs/Image, compressed for CompressedImage on "
                          "<image_topic>/compressed. Empty: as in params_file."),
    DeclareLaunchArgument("model", default_value="", description="Student file (.onnx), or the name of a bundled "
                          "student. Empty: as in params_file, by default the bundled student."),
    DeclareLaunchArgument("backend", default_value="", choices=["", "auto", *BACKENDS],
                          description="Engine that runs the student. Empty: as in params_file."),
    DeclareLaunchArgument("namespace", default_value="dino", description="Namespace of the node and its topics."),
    DeclareLaunchArgument("params_file", default_value=str(DEFAULTS),
                          description="YAML file with the node's parameters."),
    DeclareLaunchArgument("use_sim_time", default_value="", choices=["", "true", "false"],
                          description="Take time from /clock, as with `ros2 bag play --clock`. Empty: as in "
                          "params_file or the launch file that includes this one."),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"],
                          description="Lowest severity that the node logs."),
    DeclareLaunchArgument("viz", default_value="none", choices=["none", *VIEWERS],
                          description="Show camera and results: rviz opens rviz2; foxglove starts foxglove_bridge, "
                          "for robots without a desktop, and says how to connect."),
    DeclareLaunchArgument("autostart", default_value="true", choices=["true", "false"],
                          description="Bring the node to active; false leaves it unconfigured for a lifecycle "
                          "manager."),
    DeclareLaunchArgument("respawn", default_value="false", choices=["true", "false"],
                          description="Start the node again when it ends after it was active; else the launch ends "
                          "with it. A start that fails ends the launch in either case."),
]  # fmt: skip


class BringUp:
    """Brings the node to active whenever its process starts. A start that fails ends the launch, with exit code 1.

    Only the transitions of a start are followed: what is requested later is none of the launch's business.
    """

    def __init__(self, node: LifecycleNode, autostart: bool, respawn: bool) -> None:
        self._node = node
        self._autostart = autostart
        self._respawn = respawn
        self._step = ""
        """What the node has to get through next: starting, configuring or activating; empty when it is started."""

    def handlers(self) -> list[RegisterEventHandler]:
        """What to register before the node is started."""
        handlers = [OnProcessExit(target_action=self._node, on_exit=self._ended)]
        if self._autostart:
            follow = OpaqueFunction(function=self._follow)
            handlers += [
                OnProcessStart(target_action=self._node, on_start=self._started),
                OnStateTransition(target_lifecycle_node=self._node, entities=[follow]),
            ]
        return [RegisterEventHandler(handler) for handler in handlers]

    def _started(self, event: Event, context: LaunchContext) -> None:
        self._step = "starting"
        context.add_completion_future(context.asyncio_loop.create_task(self._configure(context)))

    async def _configure(self, context: LaunchContext) -> None:
        """Request the transition when the node answers.

        That its services exist says nothing: those of a process that was killed do, for another 20 seconds.
        """
        client = get_ros_node(context).create_client(GetState, f"{self._node.node_name}/get_state")
        answered = asyncio.Event()
        while not answered.is_set():
            answer = client.call_async(GetState.Request())
            answer.add_done_callback(lambda _: context.asyncio_loop.call_soon_threadsafe(answered.set))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answered.wait(), timeout=1.0)
            if context.is_shutdown:
                return
        get_ros_node(context).destroy_client(client)
        self._step = "configuring"
        await context.emit_event(self._change(Transition.TRANSITION_CONFIGURE))

    def _follow(self, context: LaunchContext) -> list[EmitEvent]:
        event = context.locals.event
        if event.start_state != self._step:
            return []
        if (event.start_state, event.goal_state) == ("configuring", "inactive"):
            self._step = "activating"
            return [EmitEvent(event=self._change(Transition.TRANSITION_ACTIVATE))]
        if event.goal_state != "active":
            raise UserError(f"The perception node failed while it was {self._step}: see its message above.")
        self._step = ""
        return []

    def _change(self, transition: int) -> ChangeState:
        return ChangeState(lifecycle_node_matcher=matches_action(self._node), transition_id=transition)

    def _ended(self, event: Event, context: LaunchContext) -> Shutdown | None:
        if context.is_shutdown or (self._respawn and not self._step and event.returncode != BAD_INPUT):
            return None
        if event.returncode or self._step:
            raise UserError(f"The perception node ended with exit code {event.returncode}: see its message above.")
        return Shutdown(reason="the perception node ended")


def perception_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    check_namespace(value("namespace"))
    if value("viz") != "none":
        check_installed(value("viz"))
    params_file = Path(value("params_file")).expanduser()
    if not params_file.is_file():
        raise UserError(f"params_file {params_file} is not a file: give the path of a YAML file.")
    # An argument left empty must not override what the file says.
    given: dict = {name: value(name) for name in ("model", "backend", "image_transport") if value(name)}
    cameras = [name.strip() for name in value("cameras").split(",") if name.strip()]
    if cameras:
        given["cameras"] = cameras
    if value("use_sim_time"):
        given["use_sim_time"] = value("use_sim_time") == "true"
    # What comes first on the command line is overridden by what a launch file that includes this one sets, what comes
    # last overrides it: the defaults come first, a file of the user's last.
    first, last = ["--log-level", value("log_level")], [given] if given else []
    if params_file == DEFAULTS:
        first += ["--params-file", str(params_file)]
    else:
        last.insert(0, str(params_file))
    if get_ros_node(context).get_parameter("use_sim_time").value:  # of SetUseSimTime, which reaches no other node
        first += ["-p", "use_sim_time:=true"]
    node = LifecycleNode(
        package="dino_ros",
        executable="perception_node",
        name="perception",
        namespace=value("namespace"),
        parameters=last,
        remappings=remappings(cameras, value("image_topic")),
        ros_arguments=first,
        respawn=value("respawn") == "true",
        respawn_delay=RESPAWN_DELAY,
        output="screen",
    )
    image_topic = value("image_topic") or ("{camera}/image" if cameras else "image")
    compressed = value("image_transport") == "compressed"
    viewer = start_viewer(value("viz"), value("namespace"), cameras, image_topic, compressed)
    return [*BringUp(node, value("autostart") == "true", value("respawn") == "true").handlers(), node, *viewer]


def start_viewer(viz: str, namespace: str, cameras: list[str], image_topic: str, compressed: bool) -> list:
    """The program that shows the topics of the node, or of the first of several cameras."""
    if viz == "none":
        return []
    namespace = f"/{namespace.strip('/')}".rstrip("/")
    camera = cameras[0] if cameras else ""
    image_topic = expand_topic_name(image_topic.replace("{camera}", camera), "perception", namespace or "/")
    results = f"{namespace}/{camera}" if camera else namespace
    settings = settings_for(viz, SHARE / "config", results, f"{image_topic}/compressed" if compressed else image_topic)
    package = VIEWERS[viz].package
    if viz == "rviz":
        return [Node(package=package, executable=package, arguments=["-d", str(settings)], output="screen")]
    how = (
        "Foxglove: open a connection to ws://localhost:8765 (from elsewhere, this machine's address), and import the "
        f"layout {settings}"
    )
    return [LogInfo(msg=how), Node(package=package, executable=package, output="screen")]


def check_namespace(namespace: str) -> None:
    """Raise UserError for a namespace that ROS does not allow."""
    try:
        validate_namespace(f"/{namespace.strip('/')}")
    except InvalidNamespaceException as error:
        raise UserError(f"namespace {namespace!r} is not a namespace: use letters, digits, _ and /.") from error


def remappings(cameras: list[str], image_topic: str) -> list[tuple[str, str]]:
    """Remappings from the node's topic names to the cameras' topics. Raises UserError for names that cannot be used."""
    if not image_topic:
        return []
    if len(cameras) > 1 and "{camera}" not in image_topic:
        raise UserError(
            f"image_topic {image_topic} is the same topic for {len(cameras)} cameras: put {{camera}} into it."
        )
    pairs = []
    for name in cameras or [""]:
        topic = image_topic.replace("{camera}", name)
        try:
            validate_full_topic_name(expand_topic_name(topic, "perception", "/"))
        except (ValueError, InvalidTopicNameException) as error:
            raise UserError(f"image_topic {topic!r} is not a topic name: use letters, digits, _ and /.") from error
        pairs.append((f"{name}/image" if name else "image", topic))
    return pairs


def generate_launch_description() -> LaunchDescription:
    profile = profile_environment(SHARE / "config" / "fastdds.xml", os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, path) for name, path in profile.items()),
            OpaqueFunction(function=perception_node),
        ]
    )
