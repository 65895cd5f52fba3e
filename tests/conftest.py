"""What all tests share: fixtures, which skips are expected, which tests are slow."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread for each worker of pytest-xdist: more would wait for a core. Without it a number all the same, since tests
# compare runs bit for bit, and threads would depend on the load. Set before anything reads it, and inherited.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

from dino_ros.demo.domain import free_domain
from dino_ros.nodes.transport import loopback_profile, variables_to_set

pytest_plugins = ["pytester"]

EXPECTED_SKIPS = [
    # ROS packages that PyPI does not have.
    r"\b(launch_ros|vision_msgs|cv_bridge|tf2_ros)\b",
    "dino_ros is not built and sourced",
    r"no C\+\+ compiler",
    # Hardware, and software that comes with it.
    "no NVIDIA GPU",
    "this machine has an NVIDIA GPU",
    "TensorRT is not installed",
    # A Debian package.
    "chromium is not installed",
    # $DINO_ROS_TEST_DATA
    "real test data is absent",
]
"""Patterns of the reasons for which a test may be skipped where everything that pip can install is installed. Any other
skip fails the suite: it would hide a test that never runs. `--allow-skips` permits them all."""

if sys.version_info >= (3, 12):
    EXPECTED_SKIPS.append(r"\bpybullet\b")  # has no wheels for it
if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    EXPECTED_SKIPS.append(r"\b(tensorrt_rtx|cuda\.bindings)\b")  # has wheels for that platform alone

SLOW = [
    "test_adapting.py",
    "test_annotate.py",
    "test_backbones.py",
    "test_camera_node.py",
    "test_camera_topics.py",
    "test_compare.py",
    "test_cpp_subscriber.py",
    "test_demo.py",
    "test_depth_node.py",
    "test_dino_v1.py",
    "test_distill.py",
    "test_encoders.py",
    "test_engine_attention.py",
    "test_evaluator.py",
    "test_export.py",
    "test_foreground_head.py",
    "test_features_export.py",
    "test_fp16.py",
    "test_frames.py",
    "test_fuzz.py",
    "test_launch.py",
    "test_learner_node.py",
    "test_linear.py",
    "test_loader.py",
    "test_lost_frames.py",
    "test_methods.py",
    "test_node_under_load.py",
    "test_openvino.py",
    "test_own_log.py",
    "test_package.py::test_a_wheel_of_the_source_distribution_works_in_an_empty_environment",
    "test_package.py::test_colcon_builds_what_ros_needs",
    "test_perception_node.py",
    "test_policy.py",
    "test_place_recognition.py",
    "test_pretrain.py",
    "test_process.py",
    "test_processes.py",
    "test_quantize.py",
    "test_release.py",
    "test_record_arm.py",
    "test_render_table.py",
    "test_report.py",
    "test_strange_data.py",
    "test_strange_runs.py",
    "test_taught_tables.py",
    "test_tensorrt_builds.py",
    "test_tutorial.py",
    "test_view_node.py",
    "test_view_page.py",
]
"""Modules and tests that `make quick` leaves out."""
LONGEST = "test_tutorial.py"
"""Its tests take a minute each, and come first: at the end one process would wait while another runs them."""

# Nothing the tests do over DDS leaves the machine: set before any test imports rclpy, and inherited by its processes.
os.environ.update(dict.fromkeys(variables_to_set(), str(loopback_profile())))


@pytest.fixture(scope="session", autouse=True)
def folders_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes of bags, taught objects and logs of nodes stay out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "ROS_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


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
    pytest.importorskip("onnx")
    from students import write_student

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


@pytest.fixture
def client(ros: None) -> Iterator[Any]:
    """The node of a user; see clients.py."""
    from clients import Client

    node = Client()
    yield node
    node.destroy_node()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allow-skips", action="store_true", help="do not fail where tests are skipped unexpectedly")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipPolicy(config), "skip-policy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)
    for item in items:
        module, _, test = item.nodeid.partition("::")
        name = Path(module).name
        if name in SLOW or f"{name}::{test.partition('[')[0]}" in SLOW:
            item.add_marker("slow")


class SkipPolicy:
    """Fails the suite where a test, or a whole module, was skipped for a reason that EXPECTED_SKIPS does not name."""

    def __init__(self, config: pytest.Config) -> None:
        self._allow = config.getoption("--allow-skips")
        self._unexpected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(re.search(pattern, reason) for pattern in EXPECTED_SKIPS):
            self._unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self._unexpected and not self._allow and passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._unexpected and not self._allow:
            terminalreporter.section("unexpected skips")
            terminalreporter.write_line("Install what is missing with `make test`, or pass --allow-skips.")
            for line in self._unexpected:
                terminalreporter.write_line(line)
