"""Build time and size of TensorRT-RTX engines.

    python benchmarks/engines.py OUT.json

Students of standard shapes with random weights at 224x224, in fp32 and fp16, for three generations of GeForce and RTX
cards; needs no GPU. Prints a table and writes its rows to OUT.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import tensorrt_rtx
from students import random_student

from dino_ros.backends.ahead_of_time import engines_for

SHAPES = ("vit_ti_16", "vit_s_16", "vit_s_8")
TARGETS = ("sm86", "sm89", "sm120")


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    out = parser.parse_args().out
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for shape in SHAPES:
            for precision in ("fp32", "fp16"):
                path = Path(name) / f"{shape}_{precision}.onnx"
                random_student(path, shape, precision=precision)
                for record, _ in engines_for(path, TARGETS, 1, Path(name), report=lambda sentence: None):
                    rows.append(
                        {
                            "student": shape,
                            "precision": precision,
                            "capability": record.key.capability,
                            "seconds": record.seconds,
                            "megabytes": round(record.bytes / 1e6, 1),
                            "student megabytes": round(path.stat().st_size / 1e6, 1),
                        }
                    )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "TensorRT-RTX": tensorrt_rtx.__version__,
    }
    out.write_text(json.dumps({"machine": machine, "engines": rows}, indent=1))
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()
