"""Start the depth node beside the perception node and bring it to active."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

from dino_ros.nodes.bring_up import NODE_ARGUMENTS, lifecycle_node
from dino_ros.nodes.transport import profile_environment

SHARE = Path(get_package_share_directory("dino_ros"))
DEFAULTS = SHARE / "config" / "depth.yaml"

ARGUMENTS = [
    DeclareLaunchArgument("depth_topic", default_value="", description="Depth that is registered to the color camera, "
                          "such as /camera/aligned_depth_to_color/image_raw. Empty: depth/image in the namespace."),
    DeclareLaunchArgument("camera_info_topic", default_value="", description="Its calibration. Empty: camera_info "
                          "beside depth_topic."),
    DeclareLaunchArgument("image_topic", default_value="", description="The color camera, without `/compressed`, for "
                          "the points' colors. Empty: image in the namespace."),
    DeclareLaunchArgument("image_transport", default_value="", choices=["", "raw", "compressed"],
                          description="Of image_topic. Empty: as in params_file."),
    DeclareLaunchArgument("names", default_value="", description="What to locate, such as objects,cup,bottle: each "
                          "name's mask, or all numbered objects. Empty: as in params_file."),
    DeclareLaunchArgument("target_frame", default_value="", description="Frame of the results, through TF. Empty: as "
                          "in params_file, by default the depth image's."),
    DeclareLaunchArgument("namespace", default_value="dino", description="Namespace of the node and its topics: that "
                          "of the perception node."),
    DeclareLaunchArgument("params_file", default_value=str(DEFAULTS),
                          description="YAML file with the node's parameters."),
    *NODE_ARGUMENTS,
]  # fmt: skip


def depth_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given: dict = {name: value(name) for name in ("target_frame", "image_transport") if value(name)}
    names = [name.strip() for name in value("names").split(",") if name.strip()]
    if names:
        given["names"] = names
    depth_topic, image_topic = value("depth_topic"), value("image_topic")
    folder, slash, _ = depth_topic.rpartition("/")
    topics = {
        "depth/image": depth_topic,
        "depth/camera_info": value("camera_info_topic") or (f"{folder}{slash}camera_info" if depth_topic else ""),
        "image": image_topic,
    }
    remappings = [(name, topic) for name, topic in topics.items() if topic]
    return lifecycle_node(context, "depth", DEFAULTS, given, remappings)


def generate_launch_description() -> LaunchDescription:
    profile = profile_environment(SHARE / "config" / "fastdds.xml", os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, path) for name, path in profile.items()),
            OpaqueFunction(function=depth_node),
        ]
    )
