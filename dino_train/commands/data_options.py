"""The options that say where pictures come from."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from dino_train.config import DataConfig


def add_data_arguments(parser: ArgumentParser) -> None:
    """Options that say where pictures come from."""
    parser.add_argument("data", nargs="*", help="bags, folders of pictures, tar shards, videos; several are mixed")
    parser.add_argument("--topic", nargs="+", default=[], help="image topics of bags (default: every image topic)")
    parser.add_argument(
        "--weight", type=dict[str, float], default={}, help="draw a path or topic more often: {/front: 2, old_bag: 0.5}"
    )
    parser.add_argument(
        "--distance",
        type=float,
        default=DataConfig.distance,
        help="leave out frames of a log nearer than this to the one kept before, in grey levels; 0 keeps all",
    )


def data_config(options: Namespace) -> DataConfig:
    """What those options said."""
    return DataConfig(options.data, options.topic, options.weight, options.distance)
