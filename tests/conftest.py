"""Fixtures shared by the tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from students import write_student

from dino_ros.demo.domain import free_domain
from dino_ros.nodes.transport import PROFILE_VARIABLES, loopback_profile

# Nothing the tests do over DDS leaves the machine: set before any test imports rclpy, and inherited by its processes.
os.environ.update(dict.fromkeys(PROFILE_VARIABLES, str(loopback_profile())))


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes of bags that the tests open stay out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True)
def signal_handler_of_this_test() -> Iterator[None]:
    """torch's loaders leave a handler of SIGCHLD behind, which crashes Python when a child of a process that also has
    OpenVINO's threads ends."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images, videos and bags, named by $DINO_ROS_TEST_DATA; the test is skipped where it is absent."""
    folder = os.environ.get("DINO_ROS_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real test data is absent: set DINO_ROS_TEST_DATA to its folder")
    return Path(folder)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student whose outputs are simple functions of the pixels; see students.py."""
    path = tmp_path_factory.mktemp("students") / "tiny.onnx"
    write_student(path)
    return path


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """rclpy in this process, on a domain of this test's own that its child processes inherit."""
    rclpy = pytest.importorskip("rclpy")
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        rclpy.init()
        yield
        rclpy.shutdown()
