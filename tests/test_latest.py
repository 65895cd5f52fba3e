"""The worker that takes the newest item of each key."""

import threading

from dino_ros.perception.latest import LatestItemsWorker


class Busy:
    """A `process` that says when it has started and goes on when it is told to."""

    def __init__(self) -> None:
        self.started, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: list[dict[str, int]] = []

    def __call__(self, items: dict[str, int]) -> None:
        self.started.release()
        self.go_on.acquire()
        self.seen.append(items)


def test_a_newer_item_replaces_the_one_of_its_key_that_waits() -> None:
    busy = Busy()
    worker = LatestItemsWorker[str, int](busy, "test")
    assert worker.offer("front", 1) is None
    busy.started.acquire()  # busy with 1
    assert worker.offer("front", 2) is None
    assert worker.offer("rear", 3) is None
    assert worker.offer("front", 4) == 2
    assert worker.offer("front", 5) == 4
    busy.go_on.release()
    busy.started.acquire()
    busy.go_on.release()
    assert worker.stop() == []
    assert busy.seen == [{"front": 1}, {"front": 5, "rear": 3}]
    assert list(busy.seen[1]) == ["front", "rear"]  # a key keeps its place in the queue


def test_stopping_waits_for_the_item_at_work_and_returns_what_waits() -> None:
    busy = Busy()
    worker = LatestItemsWorker[str, int](busy, "test")
    worker.offer("front", 1)
    busy.started.acquire()
    worker.offer("front", 2)
    left: list[int] = []
    stopper = threading.Thread(target=lambda: left.extend(worker.stop()))
    stopper.start()
    stopper.join(0.1)
    assert stopper.is_alive()
    busy.go_on.release()
    stopper.join()
    assert busy.seen == [{"front": 1}]
    assert left == [2]
    assert worker.offer("front", 3) == 3  # nobody takes it
