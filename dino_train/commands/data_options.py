"""Options for where images come from."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import DataConfig


def add_data_arguments(parser: ArgumentParser) -> None:
    """Add the options for where images come from."""
    parser.add_argument("data", nargs="*", help="bags, folders of images, tar shards and videos, in any mixture")
    add_topic_argument(parser)
    parser.add_argument(
        "--weight",
        type=dict[str, float],
        default={},
        help="how often to draw from a path or topic, such as {/front: 2, old_bag: 0.5}: raise it for scenes that "
        "matter and are rare (default: 1)",
    )
    parser.add_argument(
        "--near_duplicate_threshold",
        type=float,
        default=DataConfig.near_duplicate_threshold,
        help="leave out frames of bags and videos that differ by fewer gray levels from the last kept frame: lower it "
        "where too few are kept, raise it where those kept still look alike; 0 keeps every frame",
    )


def add_topic_argument(parser: ArgumentParser) -> None:
    """Add `--topic` of commands that take the images of all topics by default."""
    parser.add_argument(
        "--topic",
        nargs="+",
        default=[],
        help="image topics of bags to take, where not all are wanted (default: every image topic but depth and labels)",
    )


def data_config(options: Namespace) -> DataConfig:
    """The data that the options describe."""
    return DataConfig(options.data, options.topic, options.weight, options.near_duplicate_threshold)
