"""Start the perception node on a camera and bring it to active."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name

from dino_ros.backends import BACKENDS
from dino_ros.errors import UserError
from dino_ros.nodes.bring_up import NODE_ARGUMENTS, lifecycle_node
from dino_ros.nodes.transport import profile_environment
from dino_ros.nodes.viewers import VIEWERS, check_installed, settings_for

SHARE = Path(get_package_share_directory("dino_ros"))
DEFAULTS = SHARE / "config" / "perception.yaml"
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
    DeclareLaunchArgument("taught_folder", default_value="", description="Folder of taught objects, as "
                          "`dino-ros teach` makes it. Empty: as in params_file, by default dino_objects in ROS_HOME."),
    DeclareLaunchArgument("namespace", default_value="dino", description="Namespace of the node and its topics."),
    DeclareLaunchArgument("params_file", default_value=str(DEFAULTS),
                          description="YAML file with the node's parameters."),
    DeclareLaunchArgument("viz", default_value="none", choices=["none", *VIEWERS],
                          description="Show camera and results: rviz opens rviz2; foxglove starts foxglove_bridge, "
                          "for robots without a desktop, and says how to connect."),
    *NODE_ARGUMENTS,
]  # fmt: skip


def perception_node(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    if value("viz") != "none":
        check_installed(value("viz"))
    given: dict = {
        name: value(name) for name in ("model", "backend", "image_transport", "taught_folder") if value(name)
    }
    cameras = [name.strip() for name in value("cameras").split(",") if name.strip()]
    if cameras:
        given["cameras"] = cameras
    node = lifecycle_node(context, "perception", DEFAULTS, given, remappings(cameras, value("image_topic")))
    image_topic = value("image_topic") or ("{camera}/image" if cameras else "image")
    compressed = value("image_transport") == "compressed"
    return [*node, *start_viewer(value("viz"), value("namespace"), cameras, image_topic, compressed)]


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
