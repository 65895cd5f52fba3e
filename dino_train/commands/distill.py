"""`dino-train distill`: distill a large ViT into a small student."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.parser import CommandParser
from dino_train.commands.training_run import add_run_arguments, run_training
from dino_train.config import ComparisonConfig, absolute, parse_size


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Train a small student to reproduce the features and attention of a frozen
teacher, without labels; write it as student.onnx and compare the two in
report.html. For a student that is faster than the ViT you have. On one CPU core
`robot_bag` takes 3 minutes for 4,000 frames with a teacher of 1 million
parameters; a larger teacher takes most of the time.

    dino-train distill my_bag --config robot_bag --teacher runs/mine/last.pt
"""
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
