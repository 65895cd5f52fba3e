"""Quality of service that users override, as with `qos_overrides./dino/attention_mask.publisher.reliability`."""

from __future__ import annotations

from typing import Any, Literal

from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from dino_ros.masks.parameters import Rule
from dino_ros.nodes.parameters import Parameter, declare_parameters

POLICIES = {
    QoSPolicyKind.HISTORY: Rule(
        "keep_last keeps the newest `depth` messages for a reader that is behind, keep_all keeps all.",
        choices=("keep_last", "keep_all"),
    ),
    QoSPolicyKind.DEPTH: Rule("Messages that are kept for a reader that is behind.", bounds=(1, 1000)),
    QoSPolicyKind.RELIABILITY: Rule(
        "reliable sends again what was lost; best_effort does not.", choices=("best_effort", "reliable")
    ),
}
"""The policies that may be overridden, those of rclcpp's and rclpy's defaults, and what each may be."""


def overridable(
    node: Any, end: Literal["publisher", "subscription"], topic: str, profile: QoSProfile
) -> QoSOverridingOptions:
    """Declare the parameters that override the profile of a publisher or subscription, which is made with the result.

    They are declared here, not only when it is made: a camera's subscription comes and goes, and a value that cannot be
    used should be known before. Raises UserError, naming the parameter, for such a value.
    """
    rows = []
    for policy, rule in POLICIES.items():
        value = getattr(profile, policy.name.lower())
        default = value.name.lower() if rule.choices else value
        name = f"qos_overrides.{node.resolve_topic_name(topic)}.{end}.{policy.name.lower()}"
        rows.append(Parameter(name, default, rule))
    declare_parameters(node, rows, read_only=True)
    return QoSOverridingOptions(POLICIES)
