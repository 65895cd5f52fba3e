"""Why a publisher and a subscription on one topic do not meet, in words for the log and the diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.duration import Infinite
from rclpy.qos import LivelinessPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

NAMELESS = "a node without a name"
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Silence:
    """Why no image comes in."""

    reason: str
    lasting: bool
    """Whether none can come before somebody changes a setting."""


def can_match(offered: QoSProfile, asked: QoSProfile) -> bool:
    """Whether a publisher with the profile `offered` reaches a subscription with the profile `asked`."""
    return bool(qos_check_compatible(offered, asked)[0] != QoSCompatibility.ERROR)


def why_publishers_do_not_match(topic: str, publishers: Sequence[TopicEndpointInfo], asked: QoSProfile) -> str:
    """A sentence on each publisher of `topic` that a subscription with the profile `asked` hears nothing from."""
    return " ".join(
        f"{topic}: {who(publisher)} offers {words(publisher.qos_profile)}, but {words(asked)} is asked for, so nothing "
        f"comes from it: {fix(publisher.qos_profile, asked)}."
        for publisher in publishers
        if not can_match(publisher.qos_profile, asked)
    )


def why_subscriptions_do_not_match(topic: str, subscriptions: Sequence[TopicEndpointInfo], offered: QoSProfile) -> str:
    """A sentence on each subscription to `topic` that a publisher with the profile `offered` does not reach."""
    return " ".join(
        f"{topic}: {who(subscription)} asks for {words(subscription.qos_profile)}, but {words(offered)} is offered, so "
        f"it hears nothing: subscribe with what is offered."
        for subscription in subscriptions
        if not can_match(offered, subscription.qos_profile)
    )


def why_silent(
    topic: str,
    name: str,
    kind: str,
    publishers: Sequence[TopicEndpointInfo],
    asked: QoSProfile,
    source: str = "the camera",
) -> Silence:
    """Why nothing comes in on `topic`, to which a node subscribes for the message type `kind`.

    `name` is the topic's name before remapping, and `source` what should publish on it.
    """
    if not publishers:
        return Silence(f"Nobody publishes on {topic}: start {source}, or remap it: -r {name}:=TOPIC.", False)
    fitting = [publisher for publisher in publishers if publisher.topic_type == kind]
    if not fitting:
        other = publishers[0].topic_type
        advice = f"remap {name} to a topic of that type"
        if {kind, other} == {RAW, COMPRESSED}:
            transport, suffix = ("compressed", "/compressed") if kind == RAW else ("raw", "")
            base = name.removesuffix("/compressed")
            advice = f"set image_transport to {transport} and remap {base}{suffix} to it"
        return Silence(f"{topic} has the type {other} ({who(publishers[0])}), not {kind}: {advice}.", True)
    if not any(can_match(publisher.qos_profile, asked) for publisher in fitting):
        return Silence(why_publishers_do_not_match(topic, fitting, asked), True)
    names = ", ".join(sorted({who(publisher) for publisher in fitting}))
    return Silence(
        f"{names} publishes on {topic}, but no image comes: it may be paused, or its images too large for the "
        "transport: run `dino-ros doctor` in its shell.",
        False,
    )


def who(endpoint: TopicEndpointInfo) -> str:
    """Full name of the node that an endpoint belongs to."""
    if endpoint.node_name in ("", "_NODE_NAME_UNKNOWN_"):  # not of ROS, or not heard of yet
        return NAMELESS
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def words(profile: QoSProfile) -> str:
    """The policies of a profile that decide whether it matches another, such as `best_effort, volatile`."""
    policies = [profile.reliability.name.lower(), profile.durability.name.lower()]
    if profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        policies.append("manual_by_topic")
    for policy in ("deadline", "liveliness_lease_duration"):
        duration = getattr(profile, policy)
        if 0 < duration.nanoseconds < Infinite.nanoseconds:  # 0 stands for none
            policies.append(f"{policy} {duration.nanoseconds / 1e9:g} s")
    return ", ".join(policies)


def fix(offered: QoSProfile, asked: QoSProfile) -> str:
    """What makes a camera's publisher and the node's subscription match."""
    if (offered.reliability, asked.reliability) == (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        return "set the parameter reliability to best_effort, or the camera's to reliable"
    return "publish with what is asked for"
