"""Start the perception node on a camera and bring it to active."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from dino_ros.backends import BACKENDS
from dino_ros.nodes.transport import profile_environment

SHARE = Path(get_package_share_directory("dino_ros"))

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
    DeclareLaunchArgument("params_file", default_value=str(SHARE / "config" / "perception.yaml"),
                          description="YAML file with the node's parameters."),
    DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"],
                          description="Take time from /clock, as with `ros2 bag play --clock`."),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"],
                          description="Lowest severity that the node logs."),
    DeclareLaunchArgument("autostart", default_value="true", choices=["true", "false"],
                          description="Bring the node to active; false leaves it unconfigured for a lifecycle "
                          "manager."),
]  # fmt: skip


def perception_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    if not Path(value("params_file")).is_file():
        raise FileNotFoundError(f"params_file {value('params_file')} does not exist: give the path of a YAML file.")
    # An argument left empty must not override what the file says.
    given = {name: value(name) for name in ("model", "backend", "image_transport") if value(name)}
    cameras = [name.strip() for name in value("cameras").split(",") if name.strip()]
    if cameras:
        given["cameras"] = cameras
    node = LifecycleNode(
        package="dino_ros",
        executable="perception_node",
        name="perception",
        namespace=value("namespace"),
        parameters=[value("params_file"), {"use_sim_time": value("use_sim_time") == "true"}, given],
        remappings=remappings(cameras, value("image_topic")),
        arguments=["--ros-args", "--log-level", value("log_level")],
        output="screen",
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    autostart = IfCondition(LaunchConfiguration("autostart"))
    return [
        RegisterEventHandler(
            OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)]),
            condition=autostart,
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[change(Transition.TRANSITION_ACTIVATE)],
            ),
            condition=autostart,
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="unconfigured",
                entities=[
                    LogInfo(msg="The perception node could not be configured: see its message above."),
                    Shutdown(reason="perception could not be configured"),
                ],
            ),
            condition=autostart,
        ),
        node,
    ]


def remappings(cameras: list[str], image_topic: str) -> list[tuple[str, str]]:
    """Remappings from the node's topic names to the cameras' topics."""
    if not image_topic:
        return []
    if len(cameras) > 1 and "{camera}" not in image_topic:
        raise ValueError(
            f"image_topic {image_topic} is the same topic for {len(cameras)} cameras: put {{camera}} into it."
        )
    pairs = []
    for name in cameras or [""]:
        topic, prefix = image_topic.replace("{camera}", name), f"{name}/" if name else ""
        pairs += [(f"{prefix}image", topic), (f"{prefix}image/compressed", f"{topic}/compressed")]
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
