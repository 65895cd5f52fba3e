"""Writing a run's folder: recipe, environment, log, and the names of the checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import timm
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from dino_ros.files import write_whole
from dino_train.config import MachineConfig
from dino_train.machine.distributed import Processes
from dino_train.recipes import Recipe

RECIPE_NAME = "recipe.yaml"
ENVIRONMENT_NAME = "environment.json"
LOG_NAME = "log.jsonl"
LAST_NAME = "last.pt"
STEPS_BETWEEN_LINES = 10
"""Steps from one line of the log to the next."""
FINISHED_NAME = "finished"
"""Appears after a run's last step, and tells its evaluator to come to an end."""


def epoch_name(epoch: float) -> str:
    """Name of the checkpoint kept after this many epochs: "epoch_0012.pt", "epoch_0012.5.pt"."""
    digits = f"{epoch:09.4f}".rstrip("0").rstrip(".")
    return f"epoch_{digits}.pt"


class RunLog:
    """The log of a run: `log.jsonl`, and the same in `tensorboard/`. Drops the lines of steps after `first_step`."""

    def __init__(self, run: Path, first_step: int) -> None:
        path = run / LOG_NAME
        kept = []
        if first_step and path.is_file():
            kept = [line for line in path.read_text().splitlines() if step_of(line) <= first_step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
        self._path = path
        self._file = path.open("a")
        self._writer = SummaryWriter(run / "tensorboard", purge_step=first_step)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Append one line; `metrics` holds `step`. Raises OSError, naming the log, if it cannot be written."""
        try:
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(metrics["step"]))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (self._file, self._writer):
            with contextlib.suppress(OSError):  # `write` has said what could not be written
                part.close()


def step_of(line: str) -> float:
    """Step of a line of the log; infinite for a line that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def describe_run(run: Path, recipe: Recipe, machine: MachineConfig, processes: Processes) -> None:
    """Write `recipe.yaml`, which `--config` accepts, and `environment.json`."""
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))  # turns tuples into lists, as YAML has them
    write_whole(run / RECIPE_NAME, yaml.safe_dump(plain, sort_keys=False).encode())
    write_whole(run / ENVIRONMENT_NAME, json.dumps(environment(machine, processes), indent=2).encode())


def environment(machine: MachineConfig, processes: Processes) -> dict[str, Any]:
    """What a result may depend on, apart from recipe and data."""
    gpu = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else None
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git_revision": git_revision(),
        "device": gpu or f"CPU, {torch.get_num_threads()} threads",
        "processes": processes.count,
        "machine": dataclasses.asdict(machine),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def git_revision() -> str | None:
    """Git revision of the source tree, with "-dirty" if files were changed; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
