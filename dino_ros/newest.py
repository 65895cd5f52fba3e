"""A worker thread that always takes the newest item and lets older ones go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestItemWorker(Generic[Item]):
    """Calls `process` with one item at a time, in a thread of its own.

    While `process` is busy only the newest item waits: an older one that still waits is dropped and counted.
    `process` must not raise.
    """

    def __init__(self, process: Callable[[Item], None], name: str) -> None:
        self._process = process
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._stopped = False
        self.dropped = 0
        """Items that a newer one replaced before they were processed."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> None:
        """Hand over the newest item; returns at once."""
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting = [item]
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after the item it is busy with; one that still waits is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                item = self._waiting.pop()
            self._process(item)
