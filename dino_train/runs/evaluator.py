"""The evaluator of a training run, a process of its own: k-NN, pictures of the attention, and the report.

`python -m dino_train.runs.evaluator RUN --data PATH...` evaluates every `epoch_*.pt` in the run's folder once, as it
appears. It ends when all are evaluated and the run has finished, or the process that started it is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_ros.files import replacing, write_whole
from dino_train.config import DataConfig, EvaluationConfig
from dino_train.evaluation.classification.class_folder import ClassFolder, open_class_folder
from dino_train.evaluation.classification.knn import knn_on_folder
from dino_train.evaluation.pictures.attention_pictures import (
    FRAMES,
    Image,
    attend,
    attention_sheet,
    fit,
    fixed_frames,
    write_picture,
)
from dino_train.models.backbones import first_line
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.runs.folder import EVALUATIONS_NAME, Line, best_evaluation, read_evaluations
from dino_train.runs.log import FINISHED_NAME, LOG_NAME
from dino_train.runs.report import MESSAGES_NAME, write_report

log = logging.getLogger(__name__)

Result = TypeVar("Result")

BEST_NAME = "best.pt"
CHECKPOINTS = "epoch_*.pt"
SECONDS_BETWEEN_POLLS = 2.0
SECONDS_BETWEEN_REPORTS = 60.0
THUMBNAIL = (272, 272)
"""Largest height and width, in pixels, of the report's pictures of a frame's attention."""


def start_evaluator(run: Path, data: DataConfig, evaluation: EvaluationConfig, device: str) -> subprocess.Popen[bytes]:
    """Start the evaluator of a run, given by its folder, on "cpu" or "cuda"; its messages go to a file there.

    It has a process session of its own, out of reach of Ctrl-C: when the caller is gone it still evaluates the
    checkpoints that exist. SIGTERM ends it at once, after a last report.
    """
    run.mkdir(parents=True, exist_ok=True)
    options = {
        "--data": data.paths,
        "--topic": data.topics,
        "--knn": [evaluation.knn] if evaluation.knn else [],
        "--frames": evaluation.frames,
        "--device": [device],
        "--parent": [str(os.getpid())],
    }
    command = [sys.executable, "-m", "dino_train.runs.evaluator", str(run)]
    command += [word for option, values in options.items() if values for word in (option, *values)]
    with (run / MESSAGES_NAME).open("ab") as messages:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True
        )


@contextlib.contextmanager
def evaluate_while_training(run: Path, data: DataConfig, evaluation: EvaluationConfig, device: str) -> Iterator[None]:
    """Run the evaluator during the block, and wait for its last evaluation; if the block raises, end it at once."""
    process = start_evaluator(run, data, evaluation, device)
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()


def main() -> None:
    """Run the evaluator."""
    parser = argparse.ArgumentParser(description="Evaluate the checkpoints of a training run as they appear.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--data", nargs="+", required=True, help="the training data")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags")
    parser.add_argument("--knn", help="folder with train/<class>/ and val/<class>/")
    parser.add_argument("--frames", nargs="+", default=[], help=f"images whose attention to draw (default: {FRAMES})")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process that this one ends with")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs the `finally` blocks
    os.nice(10)  # training comes first
    torch.set_num_threads(max((os.cpu_count() or 1) // 4, 1))
    cv2.setNumThreads(1)

    def load_frames() -> list[Image]:
        if options.frames:
            return fixed_frames(options.frames, count=max(FRAMES, len(options.frames)))
        return fixed_frames(options.data, options.topic)

    with alone(options.run):
        frames = attempt("The frames to draw cannot be read", load_frames) or []
        labeled = attempt("k-NN is skipped", lambda: open_class_folder(Path(options.knn))) if options.knn else None
        evaluate_new_checkpoints(options.run, frames, labeled, torch.device(options.device), options.parent)


def evaluate_new_checkpoints(
    run: Path, frames: Sequence[Image], labeled: ClassFolder | None, device: torch.device, parent: int
) -> None:
    """Evaluate the run's checkpoints as they appear and keep its report up to date, until the run has ended."""
    failed: set[str] = set()
    with fresh_report(run) as report:
        while True:
            # Checked before the folder is listed, so that no checkpoint written before the end is missed.
            ended = (run / FINISHED_NAME).exists() or os.getppid() != parent
            known = failed | {line["checkpoint"] for line in read_evaluations(run)}
            waiting = [path for path in run.glob(CHECKPOINTS) if path.name not in known]
            if waiting:
                checkpoint = min(waiting, key=lambda path: float(path.stem.removeprefix("epoch_")))
                if not evaluate_checkpoint(run, checkpoint, frames, labeled, device):
                    failed.add(checkpoint.name)
                report()
            elif ended:
                return
            else:
                time.sleep(SECONDS_BETWEEN_POLLS)


def evaluate_checkpoint(
    run: Path, path: Path, frames: Sequence[Image], labeled: ClassFolder | None, device: torch.device
) -> Line | None:
    """Evaluate the exported network of one checkpoint, and record the result in the run's folder.

    Draws the attention in `frames` into `attention/`, runs k-NN on `labeled` if given, adds a line to
    `evaluations.jsonl`, and makes `best.pt` the checkpoint of highest k-NN accuracy. Returns the line; what fails is
    logged and left out of it. Returns None, and adds no line, if the checkpoint cannot be read.
    """
    checkpoint = attempt(f"{path.name} cannot be evaluated", lambda: load_checkpoint(path))
    if checkpoint is None:
        return None
    vit = attempt(
        f"{path.name} cannot be evaluated", lambda: checkpoint_backbone(checkpoint, checkpoint.network).to(device)
    )
    if vit is None:
        return None
    line: Line = {
        "step": checkpoint.step,
        "epoch": checkpoint.step / checkpoint.steps_per_epoch,
        "checkpoint": path.name,
        "seconds": checkpoint.seconds,
    }
    if frames:
        sheet = attempt(f"The attention of {path.name} cannot be drawn", lambda: draw(run, path.stem, vit, frames))
        if sheet:
            line["attention"] = sheet
    if labeled:
        size = checkpoint.recipe.crops.global_crops_size
        accuracies = attempt(f"k-NN of {path.name} failed", lambda: knn_on_folder(vit, labeled, size))
        if accuracies:
            line["knn"] = {str(k): accuracy for k, accuracy in accuracies.items()}
            line["knn_images"] = len(labeled.val.files)
    lines = [other for other in read_evaluations(run) if other["checkpoint"] != path.name]
    lines = sorted([*lines, line], key=lambda other: other["step"])
    write_whole(run / EVALUATIONS_NAME, "".join(json.dumps(other) + "\n" for other in lines).encode())
    if best_evaluation(lines) is line:
        keep_best(path, run / BEST_NAME)
    return line


def draw(run: Path, name: str, vit: VisionTransformer, frames: Sequence[Image]) -> str:
    """Draw a checkpoint's attention; returns the path of the sheet, relative to the run's folder.

    Writes small pictures for the report, `attention/frame_<n>.jpg` (the frames) and `attention/<name>/frame_<n>.jpg`
    (the attention in them), and last the sheet, `attention/<name>.png`: if it exists, all of them do.
    """
    folder = run / "attention"
    attended = [attend(vit, frame) for frame in frames]
    for number, one in enumerate(attended):
        write_picture(folder / f"frame_{number:02d}.jpg", fit(one.image, THUMBNAIL))
        write_picture(folder / name / f"frame_{number:02d}.jpg", fit(one.drawn(), THUMBNAIL))
    sheet = folder / f"{name}.png"
    write_picture(sheet, attention_sheet(attended))
    return str(sheet.relative_to(run))


def keep_best(checkpoint: Path, best: Path) -> None:
    """Make `best` a hard link to a checkpoint, or a copy where the file system has no hard links."""
    with replacing(best) as temporary:
        try:
            os.link(checkpoint, temporary)
        except OSError:
            shutil.copyfile(checkpoint, temporary)


def attempt(failure: str, action: Callable[[], Result]) -> Result | None:
    """Result of an action; if it fails, logs one sentence and returns None: later evaluations may succeed."""
    try:
        return action()
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}."
        log.warning("%s: %s", failure, reason)
        return None


@contextlib.contextmanager
def fresh_report(run: Path) -> Iterator[Callable[[], None]]:
    """Write the report every minute while the log grows, and at the end; yields a function that writes it at once.

    A thread writes it, because an evaluation may take many minutes.
    """
    ended, writing = threading.Event(), threading.Lock()

    def report() -> None:
        with writing:
            attempt("The report cannot be written", lambda: write_report(run))

    def log_size() -> int:
        return (run / LOG_NAME).stat().st_size if (run / LOG_NAME).exists() else 0

    def every_minute() -> None:
        size = 0
        while not ended.wait(SECONDS_BETWEEN_REPORTS):
            if log_size() > size:
                size = log_size()
                report()

    thread = threading.Thread(target=every_minute, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()
        report()


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Wait for a previous evaluator of this run to exit: one may still be at work where a run is resumed at once."""
    with (run / MESSAGES_NAME).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, however the process ends
        yield


if __name__ == "__main__":
    main()
