"""`dino-train pretrain`: learn from images, without labels."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.training_run import add_run_arguments, train


def parser() -> ArgumentParser:
    """Options of `dino-train pretrain`."""
    parser = ArgumentParser(
        description="Pretrain a ViT without labels, by DINO, BYOL, MoCo or SwAV: the recipe's section says which. "
        "Ctrl-C loses two minutes at most: --resume goes on. "
        "On several GPUs: torchrun --nproc-per-node 8 -m dino_train pretrain ..."
    )
    add_run_arguments(parser, "pretrain", Path("runs/pretrain"))
    return parser


def run(options: Namespace) -> None:
    """`dino-train pretrain`."""
    if checkpoint := train(options, "pretrain"):
        print(
            f"{checkpoint}: go on with `dino-train export {checkpoint} --size HxW`; "
            f"see {checkpoint.with_name('report.html')}."
        )
