"""`dino-train evaluate knn`: classify a folder of classes by the embedding's nearest neighbors."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Classify the images of val/ by their nearest neighbors in train/: the paper's
k-NN, weighted by exp(cosine / 0.07). Nothing is trained: it measures the
embedding itself. Takes one look at each image; ViT-S/16 at 224x224 sees 15 a
second on two CPU cores.

    dino-train evaluate knn runs/mine/last.pt random --data labeled/
"""
    )
    add_encoder_arguments(parser, size="224x224")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and val/<class>/ images")
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.classification.class_folder import open_class_folder
    from dino_train.evaluation.classification.knn import knn_scores
    from dino_train.evaluation.scores import Scores, show

    folder = open_class_folder(options.data)
    rows: list[Scores] = []
    for name, encoder in open_named_encoders(options).items():
        accuracies = knn_scores(encoder, folder)
        rows.append({"encoder": name, **{f"k = {k}": accuracy for k, accuracy in accuracies.items()}})
    show(f"k-NN on {options.data.name}: {len(folder.val.files)} images", rows, options.out)
