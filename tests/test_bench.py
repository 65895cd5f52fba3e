"""`dino-ros bench` on the tiny student."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[1]


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dino_ros.cli", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_table_and_the_files_agree(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = bench(str(student), "--backend", "onnxruntime", "--size", "320x240", "--runs", "12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "bench_output" / "bench.json").read_text())
    assert measured["runs"] == 12
    assert measured["backend"].startswith("onnxruntime (ONNX Runtime")
    stages = measured["stages"]
    for values in stages.values():
        assert 0 < values["p50"] <= values["p90"] <= values["p99"]
    assert max(stages[name]["p50"] for name in ("prepare", "infer", "mask")) <= stages["all"]["p50"]
    assert set(measured["throughput"]) == {"1", "2", "4", "8"}
    for name, values in stages.items():
        assert f"{name:<10}" + "".join(f"{value:9.2f}" for value in values.values()) in done.stdout
    assert cv2.imread(str(tmp_path / "bench_output" / "bench.png")) is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "640"], "--size 640 is not WIDTHxHEIGHT"),
        (["--runs", "0"], "0 runs cannot be measured"),
        (["--backend", "abacus"], "no backend 'abacus'"),
        (["missing.onnx"], "no student 'missing.onnx'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_frame_is_followed_through_the_stages(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = bench(str(student), "--backend", "onnxruntime", "--size", "64x48", "--trace", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    traced = json.loads((tmp_path / "bench_output" / "trace.json").read_text())
    frames = {int(frame): arrived for frame, arrived in traced["arrived"].items()}
    assert frames  # a machine that is busy may supersede some
    assert list(frames.values()) == sorted(frames.values())
    for frame, arrived in frames.items():
        spans = [span for span in traced["spans"] if span["frame"] == frame]
        assert [span["stage"] for span in spans] == ["prepare", "infer", "mask"]
        times = [time for span in spans for time in (span["start"], span["end"])]
        assert times[0] >= arrived
        assert all(span["end"] >= span["start"] for span in spans)
    assert cv2.imread(str(tmp_path / "bench_output" / "trace.png")) is not None
