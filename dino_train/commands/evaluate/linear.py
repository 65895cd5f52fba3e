"""`dino-train evaluate linear`: classify a folder of classes by a linear classifier on frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Classify the images of val/ by a linear classifier on frozen features, trained
on train/: the paper's linear evaluation. The best learning rate is chosen on
val/. For student files, and at sizes that are not square, the features are the
embeddings of whole images and of their mirror images. Takes as many looks at
each image as there are epochs, hours for ViT-S/16 on a CPU; with flips, two.

    dino-train evaluate linear runs/mine/last.pt --data labeled/
"""
    )
    add_encoder_arguments(parser, size="224x224")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and val/<class>/ images")
    parser.add_argument(
        "--epochs", type=PositiveInt, default=100, help="passes over the training images; fewer for a quick look"
    )
    parser.add_argument("--batch", type=PositiveInt, default=128, help="images per step; lower it where memory ends")
    parser.add_argument(
        "--lr",
        nargs="+",
        type=PositiveFloat,
        help="learning rates for a batch of 256, each of which trains a classifier; others if the best is the first or "
        "the last (default: 1e-4 to 1 in factors of about 3)",
    )
    parser.add_argument(
        "--augmentation",
        type=Literal["crops", "flips"],
        default="crops",
        help="crops: random ones, new in each epoch, as in the paper; flips: center crops and their mirror images, "
        "whose features are computed once, so that an epoch takes seconds: choose it on a CPU",
    )
    parser.add_argument(
        "--blocks",
        type=PositiveInt | None,
        help="last blocks whose CLS tokens are used, to compare with other papers (default: 4, or 1 from ViT-B on)",
    )
    parser.add_argument(
        "--patches",
        type=bool | None,
        help="also use the mean of the patch tokens, to compare with other papers (default: only from ViT-B on)",
    )
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.classification.class_folder import open_class_folder
    from dino_train.evaluation.classification.linear import RATES, LinearSettings, linear_scores
    from dino_train.evaluation.scores import Scores, show

    folder = open_class_folder(options.data)
    settings = LinearSettings(
        options.epochs, options.batch, options.lr or RATES, options.augmentation, options.blocks, options.patches
    )
    rows: list[Scores] = []
    for name, encoder in open_named_encoders(options).items():
        scores = linear_scores(encoder, folder, settings)
        rows += [
            {
                "encoder": name,
                "features": scores.features,
                "trained on": scores.trained_on,
                "learning rate": f"{rate:g}",
                "top-1": accuracy.top1,
                "top-5": accuracy.top5,
                "best": "best" if rate == scores.best else "",
            }
            for rate, accuracy in scores.accuracies.items()
        ]
    show(f"Linear classification on {options.data.name}: {len(folder.val.files)} images", rows, options.out)
