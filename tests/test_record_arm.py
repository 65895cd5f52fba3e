"""The simulated arm's log: what the expert did, as a robot would have recorded it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

pytest.importorskip("torch")
pytest.importorskip("pybullet")

from imports import ROOT

from dino_train.evaluation.policy.arm import CUBE_AREAS, SIDE, simulated_arm
from dino_train.evaluation.policy.trials import demonstrate

TOPICS = ("/camera/image_raw/compressed", "/joint_states", "/ground_truth/poses")


def record(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "record_arm.py"), str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, dict[str, Any]]]:
    """Stamp and messages of each step of four demonstrations: reach, push, pick, reach."""
    out = tmp_path_factory.mktemp("arm") / "log"
    finished = record(out, "--demonstrations", "4", "--seed", "3")
    assert finished.returncode == 0, finished.stderr
    steps: dict[int, dict[str, Any]] = {}
    with AnyReader([out]) as reader:
        for connection, stamp, raw in reader.messages():
            steps.setdefault(stamp, {})[connection.topic] = reader.deserialize(raw, connection.msgtype)
    return sorted(steps.items())


def test_a_task_follows_the_other_with_pauses_between(log: list[tuple[int, dict[str, Any]]]) -> None:
    stamps = np.array([stamp for stamp, _ in log])
    begins = [0, *(np.flatnonzero(np.diff(stamps) > 1e9) + 1)]
    assert set(np.diff(stamps)) == {250_000_000, 5_000_000_000}
    cubes = [log[begin][1]["/ground_truth/poses"].poses[0].position for begin in begins]
    for task, cube in zip(("reach", "push", "pick", "reach"), cubes, strict=True):
        least, greatest = CUBE_AREAS[task]
        assert least[0] <= cube.x <= greatest[0]
        assert least[1] <= cube.y <= greatest[1]
        assert cube.z == pytest.approx(SIDE / 2)
    assert (cubes[0].x, cubes[0].y) != (cubes[3].x, cubes[3].y)


def test_messages_tell_what_the_arm_saw_and_how_it_stood(log: list[tuple[int, dict[str, Any]]]) -> None:
    with simulated_arm() as arm:
        shown = demonstrate(arm, "reach", 1, seed=3)
    for (stamp, messages), moment in zip(log, shown, strict=False):
        assert tuple(messages) == TOPICS
        for message in messages.values():
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
        joints = messages["/joint_states"]
        assert joints.name == [f"panda_joint{number}" for number in range(1, 8)]
        np.testing.assert_allclose(joints.position, moment.state.joints)
        image = cv2.imdecode(messages["/camera/image_raw/compressed"].data, cv2.IMREAD_COLOR_RGB)
        assert np.abs(image.astype(float) - moment.image).mean() < 2


def test_what_exists_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    assert f"{tmp_path / 'log'} exists already" in record(tmp_path / "log").stderr
    assert "--demonstrations must be at least 1" in record(tmp_path / "new", "--demonstrations", "0").stderr
    assert [file.name for file in tmp_path.rglob("*")] == ["log"]
