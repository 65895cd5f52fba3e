"""Start the learner node beside the perception node and bring it to active."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.ros_adapters import get_ros_node

from dino_ros.errors import UserError
from dino_ros.nodes.bring_up import NODE_ARGUMENTS, RESPAWN_DELAY, BringUp, check_namespace
from dino_ros.nodes.transport import profile_environment

SHARE = Path(get_package_share_directory("dino_ros"))
DEFAULTS = SHARE / "config" / "learner.yaml"

ARGUMENTS = [
    DeclareLaunchArgument("image_topic", default_value="", description="Camera topic to learn from, without "
                          "`/compressed`: that of the perception node. Empty: image in the namespace."),
    DeclareLaunchArgument("image_transport", default_value="", choices=["", "raw", "compressed"],
                          description="raw for sensor_msgs/Image, compressed for CompressedImage on "
                          "<image_topic>/compressed. Empty: as in params_file."),
    DeclareLaunchArgument("folder", default_value="", description="Folder in which what the camera sees is kept. "
                          "Empty: as in params_file, by default dino_learner in ROS_HOME."),
    DeclareLaunchArgument("learn", default_value="", choices=["", "head", "student"],
                          description="What is learnt. Empty: as in params_file."),
    DeclareLaunchArgument("teacher", default_value="", description="Teacher of a student. Empty: as in params_file."),
    DeclareLaunchArgument("namespace", default_value="dino", description="Namespace of the node: that of the "
                          "perception node."),
    DeclareLaunchArgument("params_file", default_value=str(DEFAULTS),
                          description="YAML file with the node's parameters."),
    *NODE_ARGUMENTS,
]  # fmt: skip


def learner_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    check_namespace(value("namespace"))
    params_file = Path(value("params_file")).expanduser()
    if not params_file.is_file():
        raise UserError(f"params_file {params_file} is not a file: give the path of a YAML file.")
    # An argument left empty must not override what the file says.
    given: dict = {name: value(name) for name in ("folder", "image_transport", "learn", "teacher") if value(name)}
    if value("use_sim_time"):
        given["use_sim_time"] = value("use_sim_time") == "true"
    # As in perception.launch.py: the defaults come first, what the user gives last.
    first, last = ["--log-level", value("log_level")], [given] if given else []
    if params_file == DEFAULTS:
        first += ["--params-file", str(params_file)]
    else:
        last.insert(0, str(params_file))
    if get_ros_node(context).get_parameter("use_sim_time").value:  # of SetUseSimTime, which reaches no other node
        first += ["-p", "use_sim_time:=true"]
    node = LifecycleNode(
        package="dino_ros",
        executable="learner_node",
        name="learner",
        namespace=value("namespace"),
        parameters=last,
        remappings=[("image", value("image_topic"))] if value("image_topic") else [],
        ros_arguments=first,
        respawn=value("respawn") == "true",
        respawn_delay=RESPAWN_DELAY,
        output="screen",
    )
    bring_up = BringUp(node, "learner", value("autostart") == "true", value("respawn") == "true")
    return [*bring_up.handlers(), node]


def generate_launch_description() -> LaunchDescription:
    profile = profile_environment(SHARE / "config" / "fastdds.xml", os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, path) for name, path in profile.items()),
            OpaqueFunction(function=learner_node),
        ]
    )
