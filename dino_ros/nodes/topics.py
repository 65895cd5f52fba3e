"""What is on the perception node's topics, in words: the table of docs/node.md and of the site's reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A topic that the perception node publishes."""

    type: str
    """Package and name of the message, as in `sensor_msgs/Image`."""
    encoding: str
    """Encoding of an image, and what else its type does not tell; may be empty."""
    meaning: str


RESULTS = {
    "attention_mask": Topic("sensor_msgs/Image", "mono8", "where objects are: 0 or 255, at the camera's resolution"),
    "objects": Topic(
        "sensor_msgs/Image",
        "16UC1",
        "the mask's connected parts: 0 for background, else a number that the part keeps; objects that touch are one "
        "part",
    ),
    "object_descriptors": Topic(
        "sensor_msgs/Image",
        "`32FC<C>`, Nx1",
        "the mean patch token of each object, by rising number; no rows where no object is seen",
    ),
    "detections": Topic("vision_msgs/Detection2DArray", "", "their boxes, where vision_msgs is installed"),
    "label_info": Topic(
        "vision_msgs/LabelInfo",
        "latched",
        "the name of the detections' class, where vision_msgs is installed; not sent with every frame",
    ),
    "attention": Topic("sensor_msgs/Image", "`32FC<heads>`", "attention per head on the patch grid"),
    "features": Topic("sensor_msgs/Image", "`32FC<C>`", "patch tokens on the patch grid"),
    "embedding": Topic("sensor_msgs/Image", "`32FC<C>`, 1x1", "CLS token: a descriptor of the whole image"),
    "features_rgb": Topic(
        "sensor_msgs/Image",
        "rgb8",
        "principal components of the patch tokens as colors, on the patch grid; a student's colors are the same in "
        "every frame",
    ),
    "overlay": Topic("sensor_msgs/Image", "rgb8", "camera image, attention and mask outline, for a person to look at"),
    "overlay/compressed": Topic("sensor_msgs/CompressedImage", "JPEG", "the same, for Wi-Fi"),
}
"""By name, the topics of each camera: those of `camera_topics.OUTPUT_TOPICS`, and its LABEL_INFO."""
RESERVED = frozenset(topic.partition("/")[0] for topic in RESULTS) | {"image", "taught", "teach"}
"""First parts of the names of a camera's topics, which a taught object cannot have."""
DIAGNOSTICS = Topic("diagnostic_msgs/DiagnosticArray", "", "rates, latency, dropped frames, model, what is wrong")
"""On `/diagnostics`."""


def topics_table() -> str:
    """All topics as a Markdown table, with the names that they have where nothing is remapped."""
    lines = ["| topic | type | what |", "|---|---|---|"]
    for name, topic in [*((f"/dino/{name}", topic) for name, topic in RESULTS.items()), ("/diagnostics", DIAGNOSTICS)]:
        kind = ", ".join([f"`{topic.type}`", *([topic.encoding] if topic.encoding else [])])
        lines.append(f"| `{name}` | {kind} | {topic.meaning} |")
    return "\n".join(lines)
