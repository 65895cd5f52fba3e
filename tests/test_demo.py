"""The demo command, whole: processes, DDS, images and numbers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from bags import write_bag

rclpy = pytest.importorskip("rclpy")

from dino_ros.demo.run import private_ros
from dino_ros.demo.table import TABLE, ground_truth
from dino_ros.images.sources import open_source
from dino_ros.nodes.transport import PROFILE_VARIABLES


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dino_ros.cli", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def assert_every_frame_is_accounted_for(summary: dict[str, Any]) -> None:
    assert summary["masks_received"] > 0
    fates = ("masks_received", "frames_superseded", "frames_unusable", "frames_lost")
    assert sum(summary[fate] for fate in fates) == summary["frames_published"]
    # A mask has its frame's stamp; the recorder may have missed that frame only if the machine lost some.
    missed = summary["masks_received"] - summary["stamps_matched"]
    assert 0 <= missed <= summary["frames_published"] // 10


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_a_bag_of_ones_own(tmp_path: Path, student: Path, transport: str) -> None:
    write_bag(tmp_path / "bag", frames=15)
    out = tmp_path / "out"
    finished = demo(
        tmp_path / "bag", "--topic", "/compressed", "--model", student, "--out", out, "--transport", transport
    )
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_published"] == 15
    assert_every_frame_is_accounted_for(summary)
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p90"] <= summary["latency_ms"]["p99"]
    assert summary["mask_iou"] is None
    assert summary["model"] == student.stem
    assert cv2.VideoCapture(str(out / "overlay.mp4")).read()[1].shape == (48, 64, 3)
    assert cv2.imread(str(out / "contact_sheet.png")) is not None
    assert "mask_iou" in finished.stdout
    assert not list(out.glob("*tmp*"))


def test_the_bundled_table(tmp_path: Path) -> None:
    """What `make demo` promises: a mask for every frame it has time for, and an IoU of 0.45 against the truth."""
    finished = demo("--out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames_published"] == 300
    assert_every_frame_is_accounted_for(summary)
    assert summary["mask_iou"] >= 0.45


def test_the_table_is_as_described() -> None:
    truth = ground_truth()
    frames = list(open_source(TABLE, "/camera/image_raw/compressed"))
    assert [frame.stamp for frame in frames] == list(truth)
    shares = sorted((mask > 0).mean() for mask in truth.values())
    assert shares[len(shares) // 10] > 0.03
    assert shares[-len(shares) // 10] < 0.25
    assert sum(file.stat().st_size for file in TABLE.iterdir()) < 6e6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere"], "/nowhere"),
        ([TABLE, "--topic", "/elsewhere"], "/elsewhere"),
        (["--model", "nothing"], "'nothing'"),
        (["--backend", "abacus"], "'abacus'"),
    ],
)
def test_bad_input_prints_one_sentence_and_exits_with_2(
    tmp_path: Path, arguments: list[str | Path], named: str
) -> None:
    finished = demo(*arguments, "--out", tmp_path / "out")
    assert finished.returncode == 2
    assert named in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recording", "topic", "frames"),
    [("bags/euroc_micro", "/cam0/image_raw/compressed", 95), ("videos/cups.mp4", "", 300)],
)
def test_real_recordings(test_data: Path, tmp_path: Path, recording: str, topic: str, frames: int) -> None:
    finished = demo(test_data / recording, *(["--topic", topic] if topic else []), "--out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames_published"] == frames
    assert_every_frame_is_accounted_for(summary)


def test_a_frame_that_cannot_be_used_is_counted(tmp_path: Path, student: Path) -> None:
    write_bag(tmp_path / "bag", frames=6, broken=2)
    played = demo(
        *(tmp_path / "bag", "--topic", "/compressed", "--transport", "compressed"),
        *("--model", student, "--out", tmp_path / "out"),
    )
    assert played.returncode == 0, played.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_published"], summary["frames_unusable"]) == (6, 1)
    assert_every_frame_is_accounted_for(summary)


def test_a_recording_without_one_usable_frame_exits_with_1(tmp_path: Path, student: Path) -> None:
    write_bag(tmp_path / "bag", frames=1, broken=0)
    options = ("--topic", "/compressed", "--model", student, "--out", tmp_path / "out")
    finished = demo(tmp_path / "bag", *options, "--transport", "compressed")
    assert finished.returncode == 1
    assert "no mask arrived" in finished.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["masks_received"], summary["rate_hz"]) == (0, None)
    # As raw images it cannot even be played.
    finished = demo(tmp_path / "bag", *options)
    assert finished.returncode == 2
    assert "No frame of bag, /compressed could be played" in finished.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal; a shell that runs the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_demo_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes through, and ROS is shut down once."""
    for name in ("ROS_DOMAIN_ID", *PROFILE_VARIABLES):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be restored
    with pytest.raises(KeyboardInterrupt), private_ros():
        signal.raise_signal(signal.SIGINT)
    assert not rclpy.ok()
