"""What the launch files do about a node's start: its parameters, the way to active, the end where that fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import Event, LaunchContext
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.exceptions import InvalidNamespaceException
from rclpy.validate_namespace import validate_namespace

from dino_ros.errors import UserError

RESPAWN_DELAY = 2.0
"""Seconds between the end of the node and its next start."""
BAD_INPUT = 2
"""The node's exit code when it cannot use its parameters: it would end so again."""

NODE_ARGUMENTS = (
    DeclareLaunchArgument("use_sim_time", default_value="", choices=["", "true", "false"],
                          description="Take time from /clock, as with `ros2 bag play --clock`. Empty: as in "
                          "params_file or the launch file that includes this one."),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"],
                          description="Lowest severity that the node logs."),
    DeclareLaunchArgument("autostart", default_value="true", choices=["true", "false"],
                          description="Bring the node to active; false leaves it unconfigured for a lifecycle "
                          "manager."),
    DeclareLaunchArgument("respawn", default_value="false", choices=["true", "false"],
                          description="Start the node again when it ends after it was active; else the launch ends "
                          "with it. A start that fails ends the launch in either case."),
)  # fmt: skip
"""Of every launch file that starts a lifecycle node, beside `namespace` and `params_file`."""


def lifecycle_node(
    context: LaunchContext,
    name: str,
    defaults: Path,
    given: dict[str, Any],
    remappings: Sequence[tuple[str, str]],
) -> list[Any]:
    """What starts the package's node `name` as NODE_ARGUMENTS say, and brings it to active.

    `defaults` is the file that `params_file` names unless the user names another, `given` the parameters that the
    launch file's own arguments set: one left empty must not be among them, or it would override what the file says.
    Raises UserError for a namespace that ROS does not allow, and a `params_file` that is none.
    """

    def value(argument: str) -> str:
        text: str = LaunchConfiguration(argument).perform(context)
        return text

    check_namespace(value("namespace"))
    params_file = Path(value("params_file")).expanduser()
    if not params_file.is_file():
        raise UserError(f"params_file {params_file} is not a file: give the path of a YAML file.")
    if value("use_sim_time"):
        given = {**given, "use_sim_time": value("use_sim_time") == "true"}
    # What comes first on the command line is overridden by what a launch file that includes this one sets, what comes
    # last overrides it: the defaults come first, a file of the user's last.
    first = ["--log-level", value("log_level")]
    last: list[Any] = [given] if given else []
    if params_file == defaults:
        first += ["--params-file", str(params_file)]
    else:
        last.insert(0, str(params_file))
    if get_ros_node(context).get_parameter("use_sim_time").value:  # of SetUseSimTime, which reaches no other node
        first += ["-p", "use_sim_time:=true"]
    respawn = value("respawn") == "true"
    node = LifecycleNode(
        package="dino_ros",
        executable=f"{name}_node",
        name=name,
        namespace=value("namespace"),
        parameters=last,
        remappings=remappings,
        ros_arguments=first,
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY,
        output="screen",
    )
    return [*BringUp(node, name, value("autostart") == "true", respawn).handlers(), node]


class BringUp:
    """Brings a node to active whenever its process starts. A start that fails ends the launch, with exit code 1.

    Only the transitions of a start are followed: what is requested later is none of the launch's business.
    """

    def __init__(self, node: LifecycleNode, name: str, autostart: bool, respawn: bool) -> None:
        self._node = node
        self._name = name
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
        """Request the transition when the node answers."""
        if await self._answers(context):
            self._step = "configuring"
            await context.emit_event(self._change(Transition.TRANSITION_CONFIGURE))

    async def _answers(self, context: LaunchContext) -> bool:
        """Wait until the node answers requests; returns whether it does, or the launch ends before.

        A request before its services exist is lost. That they exist says nothing: those of a process that was killed
        do, for another 20 seconds.
        """
        client = get_ros_node(context).create_client(GetState, f"{self._node.node_name}/get_state")
        answered = asyncio.Event()
        with contextlib.suppress(InvalidHandle):  # a launch that ends destroys its node, and the client with it
            while not context.is_shutdown and not answered.is_set():
                if not client.service_is_ready():
                    await asyncio.sleep(0.02)
                    continue
                answer = client.call_async(GetState.Request())
                answer.add_done_callback(lambda _: context.asyncio_loop.call_soon_threadsafe(answered.set))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(answered.wait(), timeout=1.0)
            get_ros_node(context).destroy_client(client)
        return answered.is_set() and not context.is_shutdown

    def _follow(self, context: LaunchContext) -> list[EmitEvent]:
        event = context.locals.event
        if event.start_state != self._step:
            return []
        if (event.start_state, event.goal_state) == ("configuring", "inactive"):
            self._step = "activating"
            return [EmitEvent(event=self._change(Transition.TRANSITION_ACTIVATE))]
        if event.goal_state != "active":
            raise UserError(f"The {self._name} node failed while it was {self._step}: see its message above.")
        self._step = ""
        return []

    def _change(self, transition: int) -> ChangeState:
        return ChangeState(lifecycle_node_matcher=matches_action(self._node), transition_id=transition)

    def _ended(self, event: Event, context: LaunchContext) -> Shutdown | None:
        if context.is_shutdown or (self._respawn and not self._step and event.returncode != BAD_INPUT):
            return None
        if event.returncode or self._step:
            raise UserError(f"The {self._name} node ended with exit code {event.returncode}: see its message above.")
        return Shutdown(reason=f"the {self._name} node ended")


def check_namespace(namespace: str) -> None:
    """Raise UserError for a namespace that ROS does not allow."""
    try:
        validate_namespace(f"/{namespace.strip('/')}")
    except InvalidNamespaceException as error:
        raise UserError(f"namespace {namespace!r} is not a namespace: use letters, digits, _ and /.") from error
