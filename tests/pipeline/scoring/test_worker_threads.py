from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from tgo.pipeline.scoring.worker_threads import QUEUE_LENGTH, Workers, WorkerThread, open_workers


def test_a_lane_keeps_the_order_and_bounds_what_waits() -> None:
    worker, gate = WorkerThread(), threading.Event()
    done: list[int] = []
    worker.put(gate.wait)
    for number in range(QUEUE_LENGTH):
        worker.put(partial(done.append, number))
    blocked = threading.Thread(target=worker.put, args=(lambda: done.append(QUEUE_LENGTH),))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive(), "more than QUEUE_LENGTH calls were taken in"
    gate.set()
    blocked.join()
    worker.wait()
    assert done == list(range(QUEUE_LENGTH + 1))
    worker.close()


def fail() -> None:
    raise ValueError("the disk is gone")


def test_an_error_comes_up_where_the_block_ends() -> None:
    def block(workers: Workers) -> None:
        with workers.finished():
            workers.store.put(fail)
            workers.store.put(lambda: time.sleep(0.01))

    with open_workers("cpu") as workers, pytest.raises(ValueError, match="the disk is gone"):
        block(workers)


def test_the_next_put_tells_of_an_error_too() -> None:
    def many(worker: WorkerThread) -> None:
        worker.put(fail)
        for _ in range(1000):
            worker.put(lambda: time.sleep(0.001))

    worker = WorkerThread()
    with pytest.raises(ValueError, match="gone"):
        many(worker)
    worker.close()


def test_nothing_runs_any_more_when_a_block_fails() -> None:
    running, ended = threading.Event(), []

    def slow() -> None:
        running.set()
        time.sleep(0.05)
        ended.append("the running call")

    def interrupted(workers: Workers) -> None:
        with workers.finished():
            workers.store.put(slow)
            workers.store.put(lambda: ended.append("a waiting call"))
            running.wait()
            raise KeyboardInterrupt

    with open_workers("cpu") as workers:
        with pytest.raises(KeyboardInterrupt):
            interrupted(workers)
        assert ended == ["the running call"]


def test_each_keeps_the_order_of_its_items() -> None:
    with open_workers("cpu") as workers:
        assert workers.each(lambda item: item * 2, range(20)) == list(range(0, 40, 2))
