"""`dino-train pretrain`: train a ViT on images without labels."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.parser import CommandParser
from dino_train.commands.training_run import add_run_arguments, run_training


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Pretrain a ViT without labels by DINO, DINOv2, BYOL, MoCo or SwAV (the recipe's
section decides which) into a folder with checkpoints and report.html; the
recipe `adapt` goes on from published weights. On two CPU cores
`robot_bag` takes 7 minutes for 4,000 frames; a bar says how long yours takes.
After Ctrl-C, --resume goes on from a checkpoint at most two minutes old. On
several GPUs: torchrun --nproc-per-node 8 -m dino_train pretrain ...

    dino-train pretrain my_bag --config robot_bag --out runs/mine
"""
    )
    add_run_arguments(parser, "pretrain", Path("runs/pretrain"))
    return parser


def run(options: Namespace) -> None:
    if checkpoint := run_training(options, "pretrain"):
        print(
            f"Wrote {checkpoint} and {checkpoint.with_name('report.html')}. "
            f"Next: `dino-train export {checkpoint} --camera WIDTHxHEIGHT`."
        )
