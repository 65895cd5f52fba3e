"""Latency of ONNX Runtime and OpenVINO on the CPU with one setting changed at a time.

    python benchmarks/engine_settings.py --out runs/engine_settings

The first row of each engine is what the backends use; ratios are to it. Batch 1; the settings take turns, so a machine
that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from students import random_student

Engine = Callable[[NDArray[np.uint8]], object]
CORES = os.cpu_count() or 1
ROUNDS = 8


def ort(
    path: Path,
    threads: int = 0,
    spinning: bool = True,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    arena: bool = True,
    parallel: bool = False,
) -> Engine:
    """Open an ONNX Runtime session with these settings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level
    options.enable_cpu_mem_arena = arena
    if parallel:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["attention"], {"images": images})


def ov(path: Path, fixed_shape: bool = False, **settings: object) -> Engine:
    """Compile for OpenVINO with these settings, in fp32 unless they say otherwise."""
    core = openvino.Core()
    model = core.read_model(str(path))
    if fixed_shape:
        model.reshape({"images": [1, 224, 224, 3]})
    given = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", **settings}
    request = core.compile_model(model, "CPU", given).create_infer_request()
    return lambda images: request.infer({"images": images}, share_inputs=True)


def settings(path: Path) -> dict[str, Engine]:
    """Engines by the setting that is changed."""
    levels = onnxruntime.GraphOptimizationLevel
    return {
        "ONNX Runtime": ort(path),
        "ONNX Runtime, one thread": ort(path, threads=1),
        f"ONNX Runtime, {2 * CORES} threads": ort(path, threads=2 * CORES),
        "ONNX Runtime, threads do not spin": ort(path, spinning=False),
        "ONNX Runtime, basic optimizations": ort(path, level=levels.ORT_ENABLE_BASIC),
        "ONNX Runtime, no memory arena": ort(path, arena=False),
        "ONNX Runtime, parallel execution": ort(path, parallel=True),
        "OpenVINO": ov(path),
        "OpenVINO, fixed shape": ov(path, fixed_shape=True),
        "OpenVINO, throughput hint": ov(path, PERFORMANCE_HINT="THROUGHPUT"),
        "OpenVINO, one thread": ov(path, INFERENCE_NUM_THREADS=1),
        "OpenVINO, two streams": ov(path, PERFORMANCE_HINT="THROUGHPUT", NUM_STREAMS=2),
        "OpenVINO, threads pinned": ov(path, ENABLE_CPU_PINNING=True),
        "OpenVINO, bf16": ov(path, INFERENCE_PRECISION_HINT="bf16"),
    }


def measure(path: Path, runs: int) -> list[dict[str, float | str]]:
    """Latency of every engine in ms, `runs` images each."""
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    engines = settings(path)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            engine(images)  # the threads of the one before are asleep
            for _ in range(max(runs // ROUNDS, 1)):
                start = time.perf_counter()
                engine(images)
                times[name].append(1e3 * (time.perf_counter() - start))
    rows: list[dict[str, float | str]] = []
    for name, values in times.items():
        base = float(np.median(times["OpenVINO" if name.startswith("OpenVINO") else "ONNX Runtime"]))
        p50, p99 = np.percentile(values, (50, 99))
        rows.append({"engine": name, "p50": float(p50), "p99": float(p99), "ratio": float(p50) / base})
    return rows


def main() -> None:
    """Measure ViT-S/16 and ViT-Ti/16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/engine_settings"))
    parser.add_argument("--runs", type=int, default=80)
    options = parser.parse_args()
    results = {}
    for shape in ("vit_s_16", "vit_ti_16"):
        path = options.out / f"{shape}.onnx"
        random_student(path, shape)
        results[shape] = measure(path, options.runs)
        table = Table("engine", "p50, ms", "p99, ms", "p50 over the first", title=shape)
        for row in results[shape]:
            table.add_row(str(row["engine"]), f"{row['p50']:.1f}", f"{row['p99']:.1f}", f"{row['ratio']:.2f}")
        Console(width=100).print(table)
    (options.out / "engine_settings.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
