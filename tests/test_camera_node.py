"""The camera node as a process of its own, over real DDS."""

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import McapTopic, camera_info, raw, serialized, write_bag, write_mcap, write_topics

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from clients import Client
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from dino_ros.demo.run import running
from dino_ros.errors import UserError
from dino_ros.images.encodings import to_rgb
from dino_ros.images.sources import open_source
from dino_ros.images.stamps import SECOND, stamp_fields, stamp_ns
from dino_ros.nodes.camera_node import timeline

STAMPS = [1_000_000_000 + 100_000_000 * number for number in range(6)]


@pytest.mark.parametrize("topic", ["/raw", "/compressed"])
@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_a_bag_is_played_as_it_was_recorded(client: Client, tmp_path: Path, topic: str, transport: str) -> None:
    images = write_bag(tmp_path / "bag", frames=6)
    kind = Image if transport == "raw" else CompressedImage
    received: list[Image | CompressedImage] = []
    name = "/image_raw" if transport == "raw" else "/image_raw/compressed"
    client.create_subscription(kind, name, received.append, 50)
    parameters = {"path": str(tmp_path / "bag"), "topic": topic, "image_transport": transport}
    with running("camera_node", parameters, ()) as process:
        client.wait(lambda: process.poll() is not None and len(received) == 6, "all frames")
        assert process.returncode == 0
    assert [stamp_ns(message) for message in received] == STAMPS
    assert {message.header.frame_id for message in received} == {"camera"}
    lossless = not (topic == "/raw" and transport == "compressed")  # that one becomes JPEG
    for message, image in zip(received, images, strict=True):
        if lossless:
            np.testing.assert_array_equal(to_rgb(message), image)
        assert to_rgb(message).shape == image.shape
    if topic == "/raw" and transport == "raw":
        assert (received[0].encoding, received[0].step) == ("bgr8", 200)  # unchanged, padding included


def test_looping_stamps_go_on_rising(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=6)
    events = timeline(open_source(tmp_path / "bag", "/raw"), rate=0, loop=True, now=0, say=print)
    due, stamps, clock, _ = zip(*(next(events) for _ in range(20)), strict=True)
    np.testing.assert_allclose(np.diff(due), 0.1)
    np.testing.assert_array_equal(np.diff(stamps), 100_000_000)
    assert clock == stamps


EPOCH = 1_700_000_000 * SECOND
HEADERS = {
    "from zero": [0, 0, 0, 0],
    "equal": [5 * SECOND] * 4,
    "backward": [8 * SECOND, 7 * SECOND, 6 * SECOND, 5 * SECOND],
    "a jump to the epoch": [12 * SECOND, 12 * SECOND + 1, EPOCH, EPOCH + 1],
    "a jump back": [EPOCH, EPOCH + 1, 12 * SECOND, 12 * SECOND + 1],
}


def strange_bag(path: Path, stamps: list[int], times: Sequence[int] = ()) -> Path:
    messages = [serialized(raw("rgb8", np.zeros((4, 5, 3), np.uint8)), stamp) for stamp in stamps]
    return write_mcap(path, [McapTopic("/camera", messages)], times=times)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("stamps", HEADERS.values(), ids=HEADERS)
def test_time_comes_from_the_recording_and_headers_stay(tmp_path: Path, stamps: list[int], loop: bool) -> None:
    said: list[str] = []
    source = open_source(strange_bag(tmp_path / "r.mcap", stamps))
    events = timeline(source, rate=0, loop=loop, now=0, say=said.append)
    due, played, clock, _ = zip(*itertools.islice(events, 40), strict=True)
    assert len(due) == (40 if loop else 4)
    np.testing.assert_allclose(np.diff(due), 0.1)
    recorded = [SECOND + number * SECOND // 10 for number in range(4)]
    assert list(clock[:4]) == recorded
    assert np.all(np.diff(np.array(clock, np.int64)) > 0)
    assert list(played[:4]) == [stamp or time for stamp, time in zip(stamps, recorded, strict=True)]
    assert all(Time(**stamp_fields(stamp)) for stamp in played), "they fit into a header, however long it plays"
    assert not said


@pytest.mark.parametrize(
    ("times", "gaps", "sentences"),
    [
        ([1.0, 1.2, 61.2, 61.4], [0.2, 3.0, 0.2], 1),
        ([12.0, 12.5, 1.7e9, 1.7e9 + 1], [0.5, 3.0, 1.0], 1),
        ([20.0, 20.5, 10.0, 10.25], [0.5, 0.5, 0.25], 0),
        ([1.0, 1.0, 1.0, 1.0], [1 / 30] * 3, 0),
    ],
)
def test_a_long_pause_is_cut_and_said(tmp_path: Path, times: list[float], gaps: list[float], sentences: int) -> None:
    said: list[str] = []
    bag = strange_bag(tmp_path / "r.mcap", [EPOCH] * 4, [round(time * SECOND) for time in times])
    due, stamps, clock, _ = zip(*timeline(open_source(bag), rate=0, loop=False, now=0, say=said.append), strict=True)
    np.testing.assert_allclose(np.diff(due), gaps)
    rising = np.all(np.diff(times) > 0)
    np.testing.assert_allclose(np.diff(clock) / SECOND, np.diff(times) if rising else gaps, err_msg="not cut")
    assert set(stamps) == {EPOCH}
    assert len(said) == sentences
    assert all("is played as 3 s" in sentence for sentence in said)


def test_nothing_to_play_has_a_reason(tmp_path: Path) -> None:
    write_mcap(tmp_path / "empty.mcap", [McapTopic("/camera", [])])
    with pytest.raises(UserError, match=r"/camera of .*empty\.mcap has no messages"):
        open_source(tmp_path / "empty.mcap")
    bag = write_mcap(tmp_path / "cut.mcap", [McapTopic("/camera", [b"\0\1\0\0"] * 3)])
    command = [sys.executable, "-m", "dino_ros.nodes.camera_node", "--ros-args", "-p", f"path:={bag}"]
    finished = subprocess.run([*command, "-p", "wait_for_subscribers:=0"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "No frame of cut.mcap, /camera could be played: none of its messages can be read" in finished.stderr


def test_a_chosen_rate_leaves_recorded_stamps_alone(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=6)
    due, stamps, clock, _ = zip(
        *timeline(open_source(tmp_path / "bag", "/raw"), rate=50, loop=False, now=0, say=print), strict=True
    )
    np.testing.assert_allclose(np.diff(due), 0.02)
    assert list(stamps) == list(clock) == STAMPS


def test_stamps_of_a_folder_keep_to_the_chosen_rate(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((4, 5, 3), np.uint8))
    due, stamps, clock, _ = zip(
        *timeline(open_source(tmp_path), rate=5, loop=False, now=7_000_000_000, say=print), strict=True
    )
    np.testing.assert_allclose(due, [0, 0.2, 0.4, 0.6])
    assert list(stamps) == list(clock) == [7_000_000_000 + 200_000_000 * number for number in range(4)]


def test_calibration_and_time_go_with_the_images(client: Client, tmp_path: Path) -> None:
    image, info = raw("rgb8", np.zeros((4, 6, 3), np.uint8)), camera_info(4, 6)
    bag = write_topics(tmp_path / "bag", {"/front/image_raw": [image] * 6, "/front/camera_info": [info] * 6})
    images: list[Image] = []
    infos: list[CameraInfo] = []
    clock: list[Clock] = []
    client.create_subscription(Image, "/image_raw", images.append, 50)
    client.create_subscription(CameraInfo, "/camera_info", infos.append, 50)
    client.create_subscription(Clock, "/clock", clock.append, 50)
    parameters = {"path": str(bag), "clock": True, "frame_id": "front", "rate": 5.0}
    with running("camera_node", parameters, ()) as process:
        client.wait(lambda: process.poll() is not None and len(images) == len(infos) == 6, "all frames")
    assert [message.header for message in infos] == [message.header for message in images]
    assert {message.header.frame_id for message in infos} == {"front"}
    received = infos[0]
    assert (received.height, received.width, received.distortion_model) == info[1][:3]
    for values, expected in zip((received.d, received.k, received.r, received.p), info[1][3:7], strict=True):
        np.testing.assert_array_equal(values, expected)
    assert (received.binning_x, received.binning_y, received.roi.width, received.roi.do_rectify) == (1, 2, 5, True)
    times = [stamp_ns(Image(header=Header(stamp=message.clock))) for message in clock]
    assert times == sorted(times)
    assert set(times) > set(STAMPS), "it also runs on between the frames"


def test_compressed_frames_of_a_real_log_pass_unchanged(client: Client, test_data: Path) -> None:
    path = test_data / "bags" / "euroc_micro"
    received: list[CompressedImage] = []
    client.create_subscription(CompressedImage, "/image_raw/compressed", received.append, 100)
    parameters = {"path": str(path), "image_transport": "compressed"}
    with running("camera_node", parameters, ()) as process:
        client.wait(lambda: process.poll() is not None and len(received) == 95, "all frames")
    for message, frame in zip(received, open_source(path), strict=True):
        assert (stamp_ns(message), message.format) == (frame.stamp, frame.image.format)
        assert bytes(message.data) == bytes(frame.image.data)


def test_services_answer_while_a_fast_source_plays(client: Client, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=6)
    command = [sys.executable, "-m", "dino_ros.nodes.camera_node", "--ros-args", "-p", f"path:={tmp_path / 'bag'}"]
    options = ("topic:=/raw", "rate:=50.0", "loop:=true", "wait_for_subscribers:=0")
    with subprocess.Popen(command + [word for option in options for word in ("-p", option)]) as process:
        service = client.create_client(GetParameters, "/camera/get_parameters")
        assert service.wait_for_service(timeout_sec=20.0)
        change = client.create_client(SetParameters, "/camera/set_parameters")
        assert change.wait_for_service(timeout_sec=20.0)
        no_type = Parameter(name="rate", value=ParameterValue(type=77))  # which rclpy cannot read
        change.call_async(SetParameters.Request(parameters=[no_type]))
        answer = service.call_async(GetParameters.Request(names=["topic"]))
        try:
            client.wait(answer.done, "an answer", seconds=10)
        finally:
            process.send_signal(2)
    assert answer.result().values[0].string_value == "/raw"


def test_a_frame_that_does_not_decode_is_passed_over(client: Client, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", frames=6, broken=2)
    received: list[Image] = []
    client.create_subscription(Image, "/image_raw", received.append, 50)
    with running("camera_node", {"path": str(tmp_path / "bag"), "topic": "/compressed"}, ()) as process:
        client.wait(lambda: process.poll() is not None, "the end")
        assert process.returncode == 0
    assert [stamp_ns(message) for message in received] == STAMPS[:2] + STAMPS[3:]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ([], "path"),
        (["-p", "path:=/nowhere/bag"], "/nowhere/bag does not exist"),
        (["-p", "path:=/nowhere/bag", "-p", "image_transport:=h264"], "image_transport is 'h264'"),
        (["-p", "path:=/nowhere/bag", "-p", "rate:=10"], "parameter rate"),
        (["-p", "path:=/nowhere/bag", "-p", "rate:=-1.0"], "parameter rate"),
    ],
)
def test_bad_input_prints_one_sentence_and_exits_with_2(parameters: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "dino_ros.nodes.camera_node", "--ros-args", *parameters]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert sentence in finished.stderr
    assert "Traceback" not in finished.stderr
