"""Which of the processes that train together this one is, without torch."""

from __future__ import annotations

import os


def is_main() -> bool:
    """Whether this process writes the messages; known before and after `join` too."""
    return os.environ.get("RANK", "0") == "0"
