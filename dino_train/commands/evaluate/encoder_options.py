"""Options of every evaluation: the encoders, their input size and device, and the file for the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import parse_size

if TYPE_CHECKING:
    from dino_train.evaluation.encoders import Encoder


def add_encoder_arguments(
    parser: ArgumentParser, size: str | None = None, out: str = "JSON file for the scores, to keep or plot them"
) -> None:
    """Add them; `size` is the default of `--size` (None: each image's own), `out` the help of `--out`."""
    parser.add_argument(
        "encoders",
        nargs="+",
        type=str,
        help="student files (.onnx), bundled students, checkpoints, files and Hugging Face folders of other encoders, "
        "timm models (downloaded), and `random`: the previous encoder's ViT with random weights",
    )
    parser.add_argument(
        "--size",
        type=str | None,
        default=size,
        help="HxW to which images are resized: larger for finer masks, smaller for speed; student files have their own "
        f"size (default: {size or 'that of each image, rounded to patches'})",
    )
    parser.add_argument(
        "--device",
        type=Literal["auto", "cpu", "cuda"],
        default="auto",
        help="auto takes the GPU where there is one; cpu leaves it to others",
    )
    parser.add_argument("--out", type=Path | None, help=out)


def open_named_encoders(options: Namespace) -> dict[str, Encoder]:
    """Open the encoders that the options name; returns them by name."""
    from dino_train.evaluation.encoders import open_encoders

    size = parse_size(options.size) if options.size else None
    return open_encoders(options.encoders, size, options.device)
