"""Frames that DDS really loses: large ones over UDP with a small receive buffer."""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from clients import PERCEPTION, Client, values

from dino_ros.demo.lifecycle import bring_up
from dino_ros.demo.run import running
from dino_ros.nodes.transport import loopback_profile, variables_to_set

CRAMPED = """<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <transport_descriptors>
    <transport_descriptor>
      <transport_id>udp</transport_id>
      <type>UDPv4</type>
      <receiveBufferSize>70000</receiveBufferSize>
      <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
    </transport_descriptor>
  </transport_descriptors>
  <participant profile_name="cramped" is_default_profile="true">
    <rtps>
      <userTransports><transport_id>udp</transport_id></userTransports>
      <useBuiltinTransports>false</useBuiltinTransports>
    </rtps>
  </participant>
</profiles>
"""
"""UDP alone, on the loopback."""


@pytest.mark.parametrize("roomy", [False, True])
def test_lost_frames_are_counted_and_cause_a_warning(
    ros: None, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roomy: bool
) -> None:
    profile = loopback_profile()
    if not roomy:
        profile = tmp_path / "cramped.xml"
        profile.write_text(CRAMPED)
    for variable in variables_to_set():  # of the two nodes; this process has the shared memory that it began with
        monkeypatch.setenv(variable, str(profile))
    (tmp_path / "frames").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), np.full((720, 1280, 3), 50 * number, np.uint8))
    client = Client()
    camera = {"path": str(tmp_path / "frames"), "rate": 30.0, "loop": True}
    with running("perception_node", {"model": str(student), "reliability": "best_effort"}, ()):
        assert bring_up(client, PERCEPTION)
        client.listen("/dino/attention_mask")
        with running("camera_node", camera, ("__ns:=/dino", "image_raw:=image")):
            if roomy:
                status = client.diagnosis(lambda status: float(values(status)["output rate (Hz)"]) > 10)
                assert values(status)["frames lost before the node (%)"] == "0"
            else:
                status = client.diagnosis(lambda status: "lost" in status.message)
                assert float(values(status)["frames lost before the node (%)"]) > 10
    client.destroy_node()
