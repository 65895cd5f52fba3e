"""Options for where images come from."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import DataConfig


def add_data_arguments(parser: ArgumentParser) -> None:
    """Add the options for where images come from."""
    parser.add_argument("data", nargs="*", help="bags, folders of images, tar shards and videos, in any mixture")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument(
        "--weight",
        type=dict[str, float],
        default={},
        help="how often to draw from a path or topic (default: 1), such as {/front: 2, old_bag: 0.5}",
    )
    parser.add_argument(
        "--near_duplicate_threshold",
        type=float,
        default=DataConfig.near_duplicate_threshold,
        help="leave out frames of bags and videos that differ by fewer gray levels from the last kept frame; 0 keeps "
        "every frame",
    )


def data_config(options: Namespace) -> DataConfig:
    """The data that the options describe."""
    return DataConfig(options.data, options.topic, options.weight, options.near_duplicate_threshold)
