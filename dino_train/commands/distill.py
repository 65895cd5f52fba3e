"""`dino-train distill`: teach a small student what a large one sees."""

from __future__ import annotations

import signal
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.training_run import add_run_arguments, train
from dino_train.config import ComparisonConfig, absolute, parse_size


def parser() -> ArgumentParser:
    """Options of `dino-train distill`."""
    parser = ArgumentParser(
        description="Teach a small student the features and the attention of a frozen teacher, without labels, and "
        "compare the two. --resume goes on with a run that was stopped."
    )
    add_run_arguments(parser, "distill", Path("runs/distill"))
    parser.add_argument("--comparison", type=ComparisonConfig, default=ComparisonConfig(), help="what is compared")
    return parser


def run(options: Namespace) -> None:
    """`dino-train distill`."""
    from dino_train.export.teacher_comparison import compare_with_teacher, show

    if Path(options.teacher).is_file():
        options.teacher = absolute(options.teacher)
    if options.comparison.size:
        parse_size(options.comparison.size)
    if checkpoint := train(options, "distill"):
        # The loaders are done. The handler that torch leaves behind crashes Python when a child process ends while
        # OpenVINO's threads are in this one.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        show(compare_with_teacher(checkpoint, options.comparison))
        print(f"{checkpoint.with_name('student.onnx')} is the student; see {checkpoint.with_name('report.html')}.")
