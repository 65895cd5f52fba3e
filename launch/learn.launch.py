"""Start the learner node beside the perception node and bring it to active."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

from dino_ros.nodes.bring_up import NODE_ARGUMENTS, lifecycle_node
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

    given = {name: value(name) for name in ("folder", "image_transport", "learn", "teacher") if value(name)}
    remappings = [("image", value("image_topic"))] if value("image_topic") else []
    return lifecycle_node(context, "learner", DEFAULTS, given, remappings)


def generate_launch_description() -> LaunchDescription:
    profile = profile_environment(SHARE / "config" / "fastdds.xml", os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, path) for name, path in profile.items()),
            OpaqueFunction(function=learner_node),
        ]
    )
