"""`dino-ros doctor`: what it finds on this machine, and on machines where something is wrong."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from dino_ros import doctor
from dino_ros.backends.cuda_device import Device
from dino_ros.doctor import OK, PROBLEM, WARNING, Finding, examine
from dino_ros.errors import UserError
from dino_ros.files import cache_folder
from dino_ros.nodes.transport import PROFILE_VARIABLES, loopback_profile

ROOT = Path(__file__).resolve().parents[1]


def findings(model: str) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(model)}


def run_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dino_ros.cli", "doctor", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_where_the_tests_of_the_node_run_there_is_no_problem(student: Path) -> None:
    done = run_doctor(str(student))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    levels = {rest.split("  ")[0]: level for level, rest in lines}
    assert {"ROS", "DDS profile", "shared memory", "GPU", "student", "onnxruntime", "cache engines"} <= levels.keys()
    assert PROBLEM not in levels.values()
    assert "rmw_fastrtps_cpp, Python 3." in next(rest for _, rest in lines if rest.startswith("ROS  "))


def test_a_middleware_that_is_not_installed_is_a_problem(student: Path) -> None:
    done = run_doctor(str(student), RMW_IMPLEMENTATION="rmw_nothing_cpp")
    assert done.returncode == 1
    assert "\nTraceback" not in done.stderr
    assert "problem  ROS " in done.stdout
    assert "ok       onnxruntime " in done.stdout  # it goes on


def test_a_ros_for_another_python(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('_rclpy.cpython-38.so is missing')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = findings(str(student))
    assert found["ROS"].level == PROBLEM
    assert "(ImportError: _rclpy.cpython-38.so is missing): source ROS's setup.bash" in found["ROS"].sentence
    assert found["onnxruntime"].level == OK


def test_messages_that_are_not_installed_are_named(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diagnostic_msgs.msg", None)
    found = findings(str(student))["ROS"]
    assert found.level == PROBLEM
    assert "install ros-$ROS_DISTRO-diagnostic-msgs" in found.sentence


def test_profiles(tmp_path: Path) -> None:
    def said(path: Path | None) -> str:
        return doctor.profile("rmw_fastrtps_cpp", {PROFILE_VARIABLES[0]: str(path)} if path else {})

    def written(text: str) -> Path:
        path = tmp_path / "profile.xml"
        path.write_text(text)
        return path

    assert "segment of 32 MB" in said(ROOT / "config" / "fastdds.xml")
    assert "segment of 32 MB" in said(loopback_profile())
    sized = "<p><transport_descriptor><type>SHM</type><segment_size>{}</segment_size></transport_descriptor></p>"
    assert "segment of 1 MB" in said(written(sized.format(2**20)))
    for path, sentence in (
        (None, "There is none in this shell"),
        (tmp_path / "missing.xml", "is no profile of Fast DDS"),
        (written(sized.format("524288")), "segment of 512 KB, so larger frames are lost"),
    ):
        with pytest.raises(UserError, match=sentence):
            said(path)
    assert "rmw_other_cpp has none" in doctor.profile("rmw_other_cpp", {})
    for text, sentence in (
        ("not XML", "is no profile of Fast DDS"),
        ("<p/>", "segment of 512 KB"),
        ("<p><useBuiltinTransports>false</useBuiltinTransports></p>", "segment of 0 KB"),
        ("<p><transport_descriptor><type>SHM</type></transport_descriptor></p>", "segment of 512 KB"),
    ):
        with pytest.raises(UserError, match=sentence):
            said(written(text))


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64e6))
    with pytest.raises(UserError, match=r"64 MB left.*--shm-size=1g"):
        doctor.shared_memory()
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "missing")
    with pytest.raises(UserError, match=r"missing cannot be written.*mount a tmpfs"):
        doctor.shared_memory()


def test_what_killed_processes_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    long_ago = time.time() - 60
    for name in (
        "fastrtps_0123456789abcdef",
        "fastdds_fedcba9876543210",
        "fastrtps_00000000000000aa",
        "fastrtps_port7411",
    ):
        (tmp_path / name).write_bytes(b"1" * 3_000_000)
        (tmp_path / f"{name}_el").touch()
        os.utime(tmp_path / f"{name}_el", (long_ago, long_ago))
    new = tmp_path / "fastrtps_00000000000000bb_el"
    new.touch()  # as of a process that is about to lock it
    with (tmp_path / "fastrtps_00000000000000aa_el").open("rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"6 MB .*\(fastdds_\*, fastrtps_\*\): run `fastdds shm clean`"):
            doctor.left_behind()
        for name in ("fastrtps_0123456789abcdef_el", "fastdds_fedcba9876543210_el"):
            (tmp_path / name).unlink()
        doctor.left_behind()


def test_processes_of_other_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    (tmp_path / "fastrtps_1").touch()
    doctor.other_users()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"1 segments of Fast DDS .* run all ROS processes as one user"):
        doctor.other_users()


def no_device() -> Device:
    raise UserError("There is no CUDA device on this machine (no driver).")


def test_a_driver_without_a_device_is_a_warning(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_device", no_device)
    monkeypatch.setattr(doctor, "DRIVERS", (str(tmp_path / "none"),))
    assert findings(str(student))["GPU"].level == OK
    monkeypatch.setattr(doctor, "DRIVERS", (str(tmp_path),))
    found = findings(str(student))
    assert found["GPU"] == (WARNING, "GPU", "There is no CUDA device on this machine (no driver).")
    assert "tensorrt" not in found


@pytest.mark.parametrize("installed", [True, False])
def test_engines_of_a_gpu(student: Path, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_device", lambda: Device("Orin", "8.7", "12.6"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: installed and name == "tensorrt")
    variant = SimpleNamespace(name="tensorrt", title="TensorRT 10.3", trt=SimpleNamespace(__version__="10.3"))
    monkeypatch.setattr(doctor, "load_variant", lambda name: variant)
    found = findings(str(student))
    assert found["GPU"] == (OK, "GPU", "Orin, compute capability 8.7, CUDA 12.6")
    assert found["tensorrt"].level == WARNING
    assert (f"run `dino-ros engine {student}`" if installed else "is not installed") in found["tensorrt"].sentence
    assert ("onnxruntime_cuda" in found) is not installed
    if installed:
        file = doctor.engine_file(
            cache_folder("engines"),
            doctor.engine_key(variant, student, doctor.read_student(student), 1, Device("Orin", "8.7", "12.6")),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert findings(str(student))["tensorrt"] == (OK, "tensorrt", f"TensorRT 10.3, {file}")


def test_a_student_that_is_not_there_is_a_problem() -> None:
    found = findings("missing.onnx")
    assert found["student"].level == PROBLEM
    assert "onnxruntime" not in found


def test_an_engine_that_is_broken_does_not_end_the_examination(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, path: Path) -> None:
        raise ImportError("libopenvino.so is missing")

    monkeypatch.setattr(doctor, "open_backend", broken)
    found = findings(str(student))
    assert found["openvino"].level == WARNING
    assert found["onnxruntime"].level == PROBLEM
    assert "libopenvino.so is missing" in found["onnxruntime"].sentence
    assert found["cache engines"].level == OK


def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert doctor.cache("engines") == str(tmp_path / "cache" / "dino_ros" / "engines")  # it may not be there yet
    assert not (tmp_path / "cache").exists()
    engines = cache_folder("engines")
    engines.mkdir(parents=True)
    (engines / "a.engine").touch()
    (engines / "a.engine").chmod(0o666)
    with pytest.raises(UserError, match=r"Engines are not loaded, since everybody may write to .*a\.engine"):
        doctor.cache("engines")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file cannot be written, so recordings are indexed again"):
        doctor.cache("recordings")
