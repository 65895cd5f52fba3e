"""The perception node's parameters: one table, from which they are declared, checked and documented."""

from __future__ import annotations

from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from dino_ros.backends import BACKENDS
from dino_ros.errors import UserError
from dino_ros.masks.parameters import METHODS, MaskParameters


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    default: str | int | float | bool | list[str]
    description: str
    live: bool = False
    """May be changed while the node runs; the others are read when it is configured."""
    bounds: tuple[float, float] | None = None
    """Smallest and largest value, both allowed."""
    choices: tuple[str, ...] = ()
    """The only values allowed."""


PARAMETERS = (
    Parameter(
        "model",
        "",
        "Student file (.onnx), or the name of a bundled student; empty for the default bundled one. Set while the node "
        "runs, it is loaded beside the present one and takes its place between two frames.",
        live=True,
    ),
    Parameter(
        "backend",
        "auto",
        "Engine that runs the student; auto takes the fastest that works here.",
        choices=("auto", *BACKENDS),
    ),
    Parameter(
        "cameras",
        [""],
        "Names of cameras: each subscribes to <camera>/image and publishes under <camera>/. An empty name stands for "
        "`image` and the topics without prefix.",
    ),
    Parameter(
        "image_transport",
        "raw",
        "raw subscribes to sensor_msgs/Image on `image`, compressed to sensor_msgs/CompressedImage on "
        "`image/compressed`.",
        choices=("raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "best_effort",
        "QoS reliability asked of the camera; reliable loses no frame on the way, but hears no best-effort camera.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "max_rate",
        0.0,
        "Frames per second of a camera that are looked at, at most; 0 for as many as the student manages.",
        live=True,
        bounds=(0.0, 1000.0),
    ),
    Parameter(
        "input_decimation",
        1,
        "Of so many frames of a camera one is looked at.",
        live=True,
        bounds=(1, 1000),
    ),
    Parameter(
        "mask_method",
        MaskParameters.method,
        "How objects are found: foreground by the student's own head, background as what is unlike where attention is "
        "not, attention by the paper's mask; auto is foreground where the student has the head, else background.",
        live=True,
        choices=("auto", *METHODS),
    ),
    Parameter(
        "mask_refine",
        MaskParameters.refine,
        "Follow the image's edges at the camera's resolution; else the patch grid's mask is interpolated.",
        live=True,
    ),
    Parameter(
        "mask_steady",
        MaskParameters.steady,
        "Share of the mask that is carried along from the frame before, against flicker; 0 looks at each frame alone.",
        live=True,
        bounds=(0.0, 0.95),
    ),
    Parameter(
        "mask_attention_mass",
        MaskParameters.attention_mass,
        "Share of the attention that the method attention keeps: higher masks more of the image.",
        live=True,
        bounds=(0.01, 1.0),
    ),
    Parameter(
        "mask_attention_head",
        MaskParameters.attention_head,
        "Attention head of the method attention, counted from 0; -1 for the mean of all heads.",
        live=True,
        bounds=(-1, 63),
    ),
    Parameter(
        "mask_components",
        MaskParameters.components,
        "Keep only this many of the mask's largest connected parts; 0 keeps all.",
        live=True,
        bounds=(0, 1000),
    ),
)


def declare_parameters(node: Node) -> None:
    """Declare every row of PARAMETERS on the node, with description and range.

    Raises UserError, naming the parameter, for a value of the wrong type or out of range.
    """
    for row in PARAMETERS:
        descriptor = ParameterDescriptor(description=row.description)
        if row.choices:
            descriptor.additional_constraints = "one of " + ", ".join(row.choices)
        if row.bounds and isinstance(row.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(row.bounds[0]), to_value=int(row.bounds[1]))]
        elif row.bounds:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(row.bounds[0]), to_value=float(row.bounds[1]))
            ]
        try:
            node.declare_parameter(row.name, row.default, descriptor)
        except InvalidParameterTypeException as error:
            raise UserError(
                f"The parameter {row.name} must be of the type of {row.default!r} (write 1.0, not 1): {error}."
            ) from error
        except InvalidParameterValueException as error:
            raise UserError(f"The parameter {row.name} is out of its range: {error}.") from error


def why_refused(parameters: list[RosParameter], configured: bool) -> str:
    """One sentence that says why these new values cannot be taken, empty if they can.

    `configured` tells whether the node already holds a student. Ranges are checked by ROS itself.
    """
    table = {row.name: row for row in PARAMETERS}
    for parameter in parameters:
        row = table.get(parameter.name)
        if row is None:
            continue  # use_sim_time and the like belong to ROS
        if configured and not row.live:
            return (
                f"{row.name} is read when the node is configured: clean it up first "
                f"(`ros2 lifecycle set NODE cleanup`), set {row.name}, then configure it again."
            )
        if row.choices and parameter.value not in row.choices:
            return f"{row.name} is {parameter.value!r}: choose one of {', '.join(row.choices)}."
    return ""
