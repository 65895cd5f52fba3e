"""The settings of rviz2 and Foxglove: they name what the node publishes, under whatever names it does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import ROOT

pytest.importorskip("rclpy")

from dino_ros.nodes.camera_topics import OUTPUT_TOPICS
from dino_ros.nodes.viewers import VIEWERS, settings_for

CONFIG = ROOT / "config"
TOPICS = {"/diagnostics", "/dino/image", *(f"/dino/{topic}" for topic in OUTPUT_TOPICS)}
"""What the node publishes, and the camera."""


def leaves(node: Any) -> set[str]:
    """The panels of a Foxglove layout."""
    return {node} if isinstance(node, str) else leaves(node["first"]) | leaves(node["second"])


def test_rviz_shows_topics_of_the_node() -> None:
    manager = yaml.safe_load((CONFIG / VIEWERS["rviz"].settings).read_text())["Visualization Manager"]
    assert {display["Class"] for display in manager["Displays"]} == {"rviz_default_plugins/Image"}
    topics = {display["Topic"]["Value"] for display in manager["Displays"]}
    assert topics == {"/dino/image", "/dino/overlay", "/dino/attention_mask", "/dino/features_rgb"}
    assert topics <= TOPICS


def test_foxglove_shows_topics_of_the_node() -> None:
    layout = json.loads((CONFIG / VIEWERS["foxglove"].settings).read_text())
    panels = layout["configById"]
    assert leaves(layout["layout"]) == set(panels)
    images = {panel["imageMode"]["imageTopic"] for name, panel in panels.items() if name.startswith("Image!")}
    assert "/dino/overlay/compressed" in images
    paths = [path["value"] for path in panels["Plot!latency"]["paths"]]
    plotted = {re.split(r"[.\[]", path)[0] for path in paths}
    assert images | plotted | {panels["DiagnosticSummary!all"]["topicToRender"]} <= TOPICS


def test_foxglove_plots_what_the_diagnostics_report() -> None:
    from dino_ros.nodes.diagnostics import Diagnostics

    diagnostics = Diagnostics()
    diagnostics.published(0.02)
    reported = {pair.key for pair in diagnostics.report("camera", "active", 1.0, True, {}).values}
    layout = (CONFIG / VIEWERS["foxglove"].settings).read_text()
    plotted = set(re.findall(r'key==\\"([^"\\]+)', layout))
    assert plotted == {key for key in reported if key.startswith("latency")}


@pytest.mark.parametrize("viz", VIEWERS)
@pytest.mark.parametrize(
    ("namespace", "camera"), [("/eyes/left", "/dino/front/image"), ("", "/image"), ("/dino", "/dino/image/compressed")]
)
def test_settings_follow_the_names_of_the_topics(viz: str, namespace: str, camera: str) -> None:
    text = settings_for(viz, CONFIG, namespace, camera).read_text()
    shown = set(re.findall(r"""(?:Value: |imageTopic": ")(/[\w/]+)""", text))
    assert camera in shown
    results = {topic.removeprefix(f"{namespace}/") for topic in shown - {camera}}
    assert {"attention_mask", "features_rgb"} < results <= set(OUTPUT_TOPICS)


@pytest.mark.parametrize("viz", VIEWERS)
def test_settings_are_the_installed_ones_where_these_fit(viz: str) -> None:
    assert settings_for(viz, CONFIG, "/dino", "/dino/image") == CONFIG / VIEWERS[viz].settings
    assert Path(CONFIG / VIEWERS[viz].settings).is_file()
