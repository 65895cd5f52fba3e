"""The options that all evaluations have: what is evaluated, at which size, where, and the file of its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import parse_size

if TYPE_CHECKING:
    from dino_train.evaluation.encoders import Encoder


def add_encoder_arguments(
    parser: ArgumentParser, size: str | None = None, out: str = "JSON file for the scores"
) -> None:
    """Add them; `size` is the default of `--size`, None for each image's own, and `out` says what `--out` is."""
    parser.add_argument(
        "encoders",
        nargs="+",
        type=str,
        help="checkpoints (.pt), student files (.onnx) or bundled students, official DINO v1 files (.pth), timm names "
        "(downloaded), and `random`: a ViT of the shape of the one before it, with random weights",
    )
    parser.add_argument(
        "--size",
        type=str | None,
        default=size,
        help="HxW that images are resized to; student files have their own "
        f"(default: {size or 'of each image, to the patch'})",
    )
    parser.add_argument(
        "--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="auto is the GPU where there is one"
    )
    parser.add_argument("--out", type=Path | None, help=out)


def open_named_encoders(options: Namespace) -> dict[str, Encoder]:
    """The encoders that were named, by name."""
    from dino_train.evaluation.encoders import open_encoders

    size = parse_size(options.size) if options.size else None
    return open_encoders(options.encoders, size, options.device)
