"""The options that say where images come from."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import DataConfig


def add_data_arguments(parser: ArgumentParser) -> None:
    """Options that say where images come from."""
    parser.add_argument("data", nargs="*", help="bags, folders of images, tar shards, videos; several are mixed")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument(
        "--weight", type=dict[str, float], default={}, help="draw a path or topic more often: {/front: 2, old_bag: 0.5}"
    )
    parser.add_argument(
        "--near_duplicate_threshold",
        type=float,
        default=DataConfig.near_duplicate_threshold,
        help="leave out frames of a log nearer than this to the one kept before, in gray levels; 0 keeps all",
    )


def data_config(options: Namespace) -> DataConfig:
    """What those options said."""
    return DataConfig(options.data, options.topic, options.weight, options.near_duplicate_threshold)
