"""The nodes' parameters: tables from which they are declared, checked and documented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
)
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.validate_full_topic_name import validate_full_topic_name

from dino_ros.backends import BACKENDS
from dino_ros.errors import UserError
from dino_ros.images.encodings import MAX_IMAGE_PIXELS
from dino_ros.learning.subjects import HEAD, STUDENT
from dino_ros.masks.parameters import RULES, MaskParameters, Rule
from dino_ros.nodes.topics import RESERVED
from dino_ros.taught.object_files import check_object_name


@dataclass(frozen=True)
class Parameter:
    """One row of a table."""

    name: str
    default: str | int | float | bool | list[str]
    rule: Rule
    live: bool = False
    """Whether it may be changed while the node runs."""
    further_check: Callable[[Any], None] = lambda value: None
    """Raises UserError for a value that the rule allows and that cannot be used nevertheless."""

    def check(self, value: Any) -> None:
        """Raise UserError, naming the parameter, for a value that it may not take."""
        if value is None:  # which is also what ROS makes of an empty list
            raise UserError(f"{self.name} is empty: leave it out, or give it a value such as {self.default!r}.")
        self.rule.check(self.name, value)
        self.further_check(value)


def topic_names(parameter: str, example: str) -> Callable[[Sequence[str]], None]:
    """A check that raises UserError unless there are names, each once, that can be part of topics like the example."""

    def check(names: Sequence[str]) -> None:
        if not names or len(set(names)) < len(names):
            raise UserError(f"{parameter} is {list(names)}: name at least one, and none twice.")
        for name in names:
            try:
                topic = expand_topic_name(f"{name}/{example}" if name else example, "node", "/dino")
                validate_full_topic_name(topic)
            except (ValueError, InvalidTopicNameException) as error:
                raise UserError(
                    f"{parameter} has {name!r}, which is not a topic name: use letters, digits and _."
                ) from error

    return check


def check_taught_name(name: str) -> None:
    """Raise UserError for a name that no taught object can have; an empty one teaches nothing."""
    try:
        if name:
            check_object_name(name, RESERVED)
    except UserError as error:
        raise UserError(f"teach: {error}") from error


IMAGE_TRANSPORT = Parameter(
    "image_transport",
    "raw",
    Rule(
        "raw subscribes to sensor_msgs/Image on `image`, compressed to sensor_msgs/CompressedImage on "
        "`image/compressed`.",
        choices=("raw", "compressed"),
    ),
)
RELIABILITY = Parameter(
    "reliability",
    "best_effort",
    Rule(
        "QoS reliability requested from the camera. reliable loses no frame in transport, but receives nothing "
        "from a camera that publishes as best_effort.",
        choices=("best_effort", "reliable"),
    ),
)
"""How nodes subscribe to the camera's images."""

PERCEPTION_PARAMETERS = (
    Parameter(
        "model",
        "",
        Rule(
            "Student file (.onnx), or the name of a bundled student; empty for the default bundled one. When set on a "
            "running node, the new student is loaded while the old one works, and takes over between two frames."
        ),
        live=True,
    ),
    Parameter(
        "backend",
        "auto",
        Rule(
            "Engine that runs the student; auto takes the fastest that works on this machine.",
            choices=("auto", *BACKENDS),
        ),
    ),
    Parameter(
        "cameras",
        [""],
        Rule(
            "Names of the cameras: each subscribes to `<camera>/image` and publishes under `<camera>/`. An empty name "
            "stands for `image` and topics without a prefix."
        ),
        further_check=topic_names("cameras", "image"),
    ),
    IMAGE_TRANSPORT,
    RELIABILITY,
    Parameter(
        "intensity_16uc1",
        False,
        Rule(
            "Take images of the encoding 16UC1 as gray, as some infrared and thermal cameras mean it. It usually holds "
            "depth, and is refused otherwise."
        ),
    ),
    Parameter(
        "max_rate",
        0.0,
        Rule(
            "Most frames per second to process from each camera; 0 for as many as the student manages.",
            bounds=(0.0, 1000.0),
        ),
        live=True,
    ),
    Parameter(
        "input_decimation",
        1,
        Rule("Process every n-th frame of each camera; 1 for all.", bounds=(1, 1000)),
        live=True,
    ),
    Parameter(
        "max_image_pixels",
        MAX_IMAGE_PIXELS,
        Rule(
            "Most pixels that a compressed image may have; larger ones are refused before they are decoded. A few "
            "kilobytes can hold an image that takes gigabytes of memory.",
            bounds=(1, 2**30),
        ),
        live=True,
    ),
    *(Parameter(f"mask_{name}", getattr(MaskParameters, name), rule, live=True) for name, rule in RULES.items()),
    Parameter(
        "teach",
        "",
        Rule(
            "Name of the object that is being taught: what is shown on the topics below `teach/` is learnt under it. "
            "Empty when nothing is being taught."
        ),
        live=True,
        further_check=check_taught_name,
    ),
    Parameter(
        "teach_not",
        False,
        Rule("What is shown is not the object named by `teach`, though it was taken for it."),
        live=True,
    ),
    Parameter(
        "taught_folder",
        "",
        Rule(
            "Folder in which taught objects are remembered; empty for `dino_objects` in ROS_HOME, which is `~/.ros` "
            "unless set."
        ),
    ),
)

DEPTH_PARAMETERS = (
    Parameter(
        "names",
        ["objects"],
        Rule(
            "What to locate: each name subscribes to the mask of an object on `<name>/mask`, except `objects`, which "
            "stands for all objects on the topic of that name."
        ),
        further_check=topic_names("names", "mask"),
    ),
    Parameter(
        "slop",
        0.05,
        Rule("Seconds by which a mask and its depth image may be apart.", bounds=(0.0, 10.0)),
    ),
    Parameter(
        "target_frame",
        "",
        Rule("Frame of the results, through TF; empty for the depth image's. Needs tf2_ros."),
    ),
    Parameter(
        "color",
        True,
        Rule("Give the points the colors of `image`, which is subscribed to only while somebody wants the points."),
    ),
    Parameter(
        "image_transport",
        "raw",
        Rule(
            "Of `image`: raw subscribes to sensor_msgs/Image on it, compressed to sensor_msgs/CompressedImage on "
            "`image/compressed`.",
            choices=("raw", "compressed"),
        ),
    ),
    Parameter(
        "reliability",
        "best_effort",
        Rule(
            "QoS reliability requested from the cameras. reliable loses nothing in transport, but receives nothing "
            "from a camera that publishes as best_effort.",
            choices=("best_effort", "reliable"),
        ),
    ),
)

LEARNER_PARAMETERS = (
    Parameter(
        "folder",
        "",
        Rule(
            "Folder in which what the camera sees is kept, and what is learnt from it; empty for `dino_learner` in "
            "ROS_HOME, which is `~/.ros` unless set."
        ),
    ),
    Parameter("budget", 200, Rule("Megabytes that the images may take.", bounds=(1, 1_000_000))),
    Parameter("rate", 1.0, Rule("Images per second that are looked at, at most.", bounds=(0.01, 30.0))),
    Parameter(
        "node",
        "perception",
        Rule("Name of the perception node whose student is improved, on the same machine; relative to the namespace."),
    ),
    Parameter(
        "learn",
        HEAD,
        Rule(
            "What is learnt. head: the foreground head of the running student. student: a small new student, distilled "
            "from `teacher`, and its head, which takes several times as long.",
            choices=(HEAD, STUDENT),
        ),
    ),
    Parameter(
        "teacher", "", Rule("For learn: student, the teacher: weights as `dino-train distill --teacher` takes them.")
    ),
    Parameter(
        "fewest",
        200,
        Rule(
            "Images that must be new for each round of learning. With fewer, a head may be worse than none.",
            bounds=(10, 100_000),
        ),
    ),
    Parameter(
        "trial",
        30,
        Rule("Seconds with frames for which a new student must do well before it is trusted.", bounds=(1, 3600)),
    ),
    Parameter(
        "slowdown",
        1.5,
        Rule(
            "Factor by which the perception node's latency may rise: above it the training pauses, and a new student "
            "is taken back.",
            bounds=(1.05, 100.0),
        ),
    ),
    Parameter(
        "pause",
        False,
        Rule("Pause the training. To be set by whoever watches battery and heat; images are still kept."),
        live=True,
    ),
    IMAGE_TRANSPORT,
    RELIABILITY,
)

CAMERA_PARAMETERS = (
    Parameter("path", "", Rule("Bag, video or folder of images to play.")),
    Parameter("topic", "", Rule("Image topic of the bag; may be left out if it has only one.")),
    Parameter("rate", 0.0, Rule("Frames per second; 0 for the recorded rate.", bounds=(0.0, 1000.0))),
    Parameter("loop", False, Rule("Start over at the end; stamps keep rising.")),
    Parameter("clock", False, Rule("Publish the time of the recording on `/clock`, as `ros2 bag play --clock` does.")),
    Parameter(
        "image_transport",
        "raw",
        Rule(
            "raw publishes sensor_msgs/Image on `image_raw`, compressed publishes sensor_msgs/CompressedImage on "
            "`image_raw/compressed`.",
            choices=("raw", "compressed"),
        ),
    ),
    Parameter("frame_id", "", Rule("frame_id of the headers; empty for the recorded one.")),
    Parameter(
        "wait_for_subscribers",
        1,
        Rule(
            "Number of subscribers to wait for before playing, so that the first frames are not lost; 0 starts at "
            "once.",
            bounds=(0, 1000),
        ),
    ),
)


def declare_parameters(node: Node, rows: Sequence[Parameter], read_only: bool = False) -> None:
    """Declare every row on the node, with its description, its range and the value given at the start.

    One that is declared already, as those of a topic that is made again, keeps its value.

    Raises UserError, naming the parameter, for a value of the wrong type or one that its rule forbids.
    """
    for row in rows:
        descriptor = ParameterDescriptor(description=row.rule.description, read_only=read_only)
        bounds = row.rule.bounds
        if row.rule.choices:
            descriptor.additional_constraints = "one of " + ", ".join(row.rule.choices)
        if bounds and isinstance(row.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]))]
        elif bounds:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))
            ]
        try:
            declared = node.has_parameter(row.name)
            given = (
                node.get_parameter(row.name) if declared else node.declare_parameter(row.name, row.default, descriptor)
            )
        except InvalidParameterTypeException as error:
            raise UserError(
                f"The parameter {row.name} must have the type of {row.default!r} (write 1.0, not 1): {error}."
            ) from error
        except InvalidParameterValueException as error:
            raise UserError(f"The parameter {row.name} is out of its range: {error}.") from error
        row.check(given.value)


def why_refused(
    parameters: list[RosParameter],
    kept: Mapping[str, Any],
    configured: bool,
    rows: Sequence[Parameter] = PERCEPTION_PARAMETERS,
) -> str:
    """Why a node with these rows of parameters cannot take these new values, in one sentence; empty if it can.

    `kept` holds the node's values, any of which may be set again; `configured` tells whether the node is past being
    configured. ROS itself checks ranges.
    """
    table = {row.name: row for row in rows}
    for parameter in parameters:
        row = table.get(parameter.name)
        if row is None:
            continue  # use_sim_time and the like belong to ROS
        if configured and not row.live and parameter.value != kept[row.name]:
            return (
                f"{row.name} is read when the node is configured: clean it up first "
                f"(`ros2 lifecycle set NODE cleanup`), set {row.name}, then configure it again."
            )
        try:
            row.check(parameter.value)
        except UserError as error:
            return str(error)
    return ""
