"""Play a recording as a camera for the perception node: perception.launch.py plus the camera node."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Event, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dino_ros.backends import BACKENDS
from dino_ros.errors import UserError
from dino_ros.nodes.transport import profile_environment
from dino_ros.nodes.viewers import VIEWERS

SHARE = Path(get_package_share_directory("dino_ros"))

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="Bag, video or folder of images to play."),
    DeclareLaunchArgument("topic", default_value="", description="Image topic of the bag; may be left out if it has "
                          "only one."),
    DeclareLaunchArgument("rate", default_value="0.0", description="Frames per second; 0 for the recorded rate."),
    DeclareLaunchArgument("loop", default_value="true", choices=["true", "false"],
                          description="Start over at the end."),
    DeclareLaunchArgument("clock", default_value="false", choices=["true", "false"],
                          description="Publish the time of the recording on /clock; the perception node takes its time "
                          "from there."),
    DeclareLaunchArgument("image_transport", default_value="raw", choices=["raw", "compressed"],
                          description="What the camera publishes and the node subscribes to."),
    DeclareLaunchArgument("model", default_value="", description="Student file (.onnx), or the name of a bundled "
                          "student. Empty: as in params_file, by default the bundled student."),
    DeclareLaunchArgument("backend", default_value="", choices=["", "auto", *BACKENDS],
                          description="Engine that runs the student. Empty: as in params_file."),
    DeclareLaunchArgument("taught_folder", default_value="", description="Folder of taught objects, as "
                          "`dino-ros teach` makes it. Empty: as in params_file, by default dino_objects in ROS_HOME."),
    DeclareLaunchArgument("namespace", default_value="dino",
                          description="Namespace of the perception node and its topics."),
    DeclareLaunchArgument("params_file", default_value=str(SHARE / "config" / "perception.yaml"),
                          description="YAML file with the perception node's parameters."),
    DeclareLaunchArgument("viz", default_value="none", choices=["none", *VIEWERS],
                          description="Show camera and results: rviz opens rviz2; foxglove starts foxglove_bridge, "
                          "for robots without a desktop, and says how to connect."),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"],
                          description="Lowest severity that the nodes log."),
]  # fmt: skip
PASSED_ON = ("image_transport", "model", "backend", "taught_folder", "namespace", "params_file", "viz", "log_level")


def perception(context: LaunchContext) -> list:
    """The included launch file; all of its arguments are set, whatever the command line says.

    It is included where `--show-args` does not see it, which would list arguments that are not taken here.
    """
    clock = LaunchConfiguration("clock").perform(context) == "true"
    arguments = {
        "image_topic": "/camera/image_raw",
        "cameras": "",
        "use_sim_time": "true" if clock else "",
        "autostart": "true",
        "respawn": "false",
        **{name: LaunchConfiguration(name) for name in PASSED_ON},
    }
    source = str(SHARE / "launch" / "perception.launch.py")
    return [IncludeLaunchDescription(source, launch_arguments=arguments.items())]


def ended(event: Event, context: LaunchContext) -> None:
    """The camera node logs what is wrong with its input; without a camera there is nothing to do."""
    if event.returncode and not context.is_shutdown:
        raise UserError(f"The camera node ended with exit code {event.returncode}: see its message above.")


def camera_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    try:
        rate = float(value("rate"))
    except ValueError as error:
        raise UserError(f"rate {value('rate')!r} is not a number: give frames per second, such as 10.") from error
    node = Node(
        package="dino_ros",
        executable="camera_node",
        name="camera",
        namespace="camera",
        parameters=[
            {
                "path": value("bag"),
                "topic": value("topic"),
                "rate": rate,
                "loop": value("loop") == "true",
                "clock": value("clock") == "true",
                "image_transport": value("image_transport"),
            }
        ],
        ros_arguments=["--log-level", value("log_level")],
        output="screen",
    )
    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended)), node]


def generate_launch_description() -> LaunchDescription:
    profile = profile_environment(SHARE / "config" / "fastdds.xml", os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, path) for name, path in profile.items()),
            OpaqueFunction(function=perception),  # first, since it refuses what it cannot use before anything starts
            OpaqueFunction(function=camera_node),
        ]
    )
