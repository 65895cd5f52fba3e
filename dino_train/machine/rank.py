"""Which of the processes that train together this one is, without torch."""

from __future__ import annotations

import os


def is_main() -> bool:
    """Whether this process writes the messages; known before and after `join` too."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes `torchrun` or SLURM started to train together; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
