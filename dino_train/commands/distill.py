"""`dino-train distill`: distill a large ViT into a small student."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.training_run import add_run_arguments, run_training
from dino_train.config import ComparisonConfig, absolute, parse_size


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Train a small student to reproduce the features and attention of a frozen teacher, without "
        "labels, and compare the two. --resume continues a run that was stopped."
    )
    add_run_arguments(parser, "distill", Path("runs/distill"))
    parser.add_argument(
        "--comparison",
        type=ComparisonConfig,
        default=ComparisonConfig(),
        help="what student and teacher are compared on",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.export.teacher_comparison import compare_with_teacher, show

    for name in ("teacher", "init"):
        if options[name] and Path(options[name]).exists():
            options[name] = absolute(options[name])
    if options.comparison.size:
        parse_size(options.comparison.size)
    if checkpoint := run_training(options, "distill"):
        show(compare_with_teacher(checkpoint, options.comparison))
        print(f"Wrote {checkpoint.with_name('student.onnx')} and {checkpoint.with_name('report.html')}.")
