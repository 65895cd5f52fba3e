"""The worker that takes the newest item."""

import threading

from dino_ros.newest import NewestItemWorker


def test_older_items_that_wait_are_dropped_and_counted() -> None:
    started, go_on, done = threading.Semaphore(0), threading.Semaphore(0), []

    def process(item: int) -> None:
        started.release()
        go_on.acquire()
        done.append(item)

    worker = NewestItemWorker(process, "test")
    worker.offer(1)
    started.acquire()  # busy with 1
    for item in (2, 3, 4):
        worker.offer(item)
    assert worker.dropped == 2
    go_on.release()
    started.acquire()  # busy with the newest
    go_on.release()
    worker.stop()
    assert done == [1, 4]


def test_stopping_waits_for_the_item_at_work_and_takes_no_other() -> None:
    started, go_on, done = threading.Semaphore(0), threading.Semaphore(0), []

    def process(item: int) -> None:
        started.release()
        go_on.acquire()
        done.append(item)

    worker = NewestItemWorker(process, "test")
    worker.offer(1)
    started.acquire()
    worker.offer(2)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    go_on.release()
    stopper.join()
    assert done in ([1], [1, 2])  # 2 may have been taken before the stop was heard
    worker.offer(3)
    assert 3 not in done
