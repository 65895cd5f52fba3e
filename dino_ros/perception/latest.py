"""A hand-over between threads that keeps only the newest item of each key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")


class LatestItemsWorker(Generic[Key, Item]):
    """A thread that calls `process` with the items that wait: the newest one of each key.

    While `process` is busy, an item replaces an older one of the same key that still waits. Keys are passed in the
    order in which they began to wait, so that none starves. `process` must not raise. It is kept until `stop`, items
    until they are processed.
    """

    def __init__(self, process: Callable[[dict[Key, Item]], None], name: str) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Key, Item] = {}
        self._stopped = False
        # The thread forgets its arguments when it ends: from then on nothing here refers to the owner of `process`.
        self._thread = threading.Thread(target=self._run, args=(process,), name=name, daemon=True)
        self._thread.start()

    def offer(self, key: Key, item: Item) -> Item | None:
        """Hand over the newest item of a key. Returns at once, with the item it replaced, if any.

        After `stop` it returns the item itself: nothing will process it.
        """
        with self._changed:
            if self._stopped:
                return item
            replaced = self._waiting.get(key)
            self._waiting[key] = item  # a key that waits already keeps its place
            self._changed.notify()
            return replaced

    def stop(self) -> list[Item]:
        """End the thread once it finishes the items in hand; returns those that still waited."""
        with self._changed:
            self._stopped = True
            left, self._waiting = list(self._waiting.values()), {}
            self._changed.notify()
        self._thread.join()
        return left

    def _run(self, process: Callable[[dict[Key, Item]], None]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                items, self._waiting = self._waiting, {}
            process(items)
            del items  # else they would live until the next ones come
